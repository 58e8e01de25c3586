#!/usr/bin/env python3
"""Draws top.svg: starts some transfers and `pcproxy top` in tmux, waits until the history of a minute
is full, and turns what is on the screen into a picture.

usage: docs/pictures/top.py PCPROXY
"""
import html
import os
import re
import subprocess
import sys
import tempfile
import time

COLUMNS, ROWS = 108, 12
WIDTH, HEIGHT, MARGIN = 8.4, 19, 16
INK, PAPER = "#d6dae1", "#1c1f26"
COLOURS = {1: "#ef7a75", 2: "#8fce7f", 3: "#e6bd62", 5: "#cd93e6", 6: "#62c6d2"}
DIM = "#82868d"

# Name, options, producer and consumer of each transfer.
TRANSFERS = [
    ("mail", "--group uplink/office --size 900M", "cat /dev/zero", "SLOW"),
    ("photos-9", "--group uplink/office --rate 2M --size 300M", "cat /dev/zero", "cat >/dev/null"),
    ("photos-10", "--group uplink/office --rate 3M --size 4G", "cat /dev/zero", "cat >/dev/null"),
    ("shop-db", "--group uplink", "sh -c 'while head -c 1500K /dev/zero; do sleep .7; done'", "cat >/dev/null"),
    ("wiki", "--group uplink --size 2G --rate 1M", "cat /dev/zero", "cat >/dev/null"),
]
SLOW = "sh -c 'while [ \"$(head -c 900K | wc -c)\" != 0 ]; do sleep .9; done'"


def capture(pcproxy):
    """What is on the screen, with its colours as escape sequences."""
    folder = tempfile.mkdtemp()
    env = dict(os.environ, PCPROXY_DIR=folder, XDG_RUNTIME_DIR=folder, TMUX_TMPDIR=folder, LC_ALL="C.UTF-8")
    tmux = ["tmux", "-u", "-f", "/dev/null", "-L", "picture"]
    run = lambda *words: subprocess.run(words, env=env, check=True, capture_output=True, text=True).stdout
    started = []
    try:
        run(pcproxy, "group", "set", "uplink", "16M")
        run(pcproxy, "group", "set", "uplink/office", "8M")
        for name, options, producer, consumer in TRANSFERS:
            script = f"{producer} | {pcproxy} -q --name {name} {options} | {SLOW if consumer == 'SLOW' else consumer}"
            started.append(subprocess.Popen(["sh", "-c", script], env=env, start_new_session=True, stderr=subprocess.DEVNULL))
        run(*tmux, "new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), f"{pcproxy} top")
        time.sleep(62)
        run(pcproxy, "ctl", "wiki", "pause")
        run(*tmux, "send-keys", "g", "Down", "Down", "Down")
        time.sleep(2.5)
        return run(*tmux, "capture-pane", "-e", "-p")
    finally:
        subprocess.run([*tmux, "kill-server"], env=env, capture_output=True)
        for process in started:
            os.killpg(process.pid, 15)


def cells(line):
    """The characters of a line, each with its ink, paper and whether it is underlined or bold."""
    ink, bold, dim, underlined, reversed_ = INK, False, False, False, False
    for escape, text in re.findall(r"\x1b\[([0-9;]*)m|([^\x1b])", line):
        if text:
            colour = DIM if dim else ink
            yield (text, PAPER if reversed_ else colour, colour if reversed_ else None, underlined, bold)
            continue
        codes = [int(code or 0) for code in escape.split(";")]
        if codes[:2] == [38, 5]:
            ink = COLOURS.get(codes[2], INK)
            continue
        for code in codes:
            if code == 0:
                ink, bold, dim, underlined, reversed_ = INK, False, False, False, False
            elif code == 39:
                ink = INK
            elif 30 <= code < 38:
                ink = COLOURS.get(code - 30, INK)
            bold, dim = (bold or code == 1) and code != 22, (dim or code == 2) and code != 22
            underlined, reversed_ = (underlined or code == 4) and code != 24, (reversed_ or code == 7) and code != 27


def draw(text):
    lines = text.rstrip("\n").split("\n")
    size = (COLUMNS * WIDTH + 2 * MARGIN, len(lines) * HEIGHT + 2 * MARGIN - 6)
    title = "pcproxy top: five transfers in two groups, when they are finished, and how fast each was in the last minute"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]:g}" height="{size[1]:g}" '
        f'viewBox="0 0 {size[0]:g} {size[1]:g}" role="img" aria-label="{title}">',
        f"<title>{title}</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>',
        f'<g fill="{INK}" font-family="ui-monospace, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" font-size="14" xml:space="preserve">',
    ]
    for row, line in enumerate(lines):
        top = MARGIN + row * HEIGHT
        line = list(cells(line))
        papers = [(paper, underlined) for _, _, paper, underlined, _ in line]
        for column, (paper, underlined) in enumerate(papers):
            if column and papers[column - 1] == (paper, underlined):
                continue
            # One piece for all cells that look the same.
            length = next((at for at, other in enumerate(papers[column:]) if other != (paper, underlined)), len(papers) - column)
            place = f'x="{MARGIN + column * WIDTH:g}" width="{length * WIDTH:g}"'
            if paper:
                out.append(f'<rect {place} y="{top - 1}" height="{HEIGHT}" fill="{paper}"/>')
            if underlined:
                out.append(f'<rect {place} y="{top + 16.5:g}" height="1" fill="{DIM}"/>')
        for column, (sign, ink, *_) in enumerate(line):
            x = MARGIN + column * WIDTH
            # Blocks are drawn, since fonts leave gaps between them.
            if "▁" <= sign <= "█":
                full = (ord(sign) - ord("▁") + 1) * 2
                out.append(f'<rect x="{x:g}" y="{top + 17 - full:g}" width="{WIDTH + .2:g}" height="{full}" fill="{ink}"/>')
            elif "▉" <= sign <= "▏":
                part = WIDTH * (8 - (ord(sign) - ord("█"))) / 8
                out.append(f'<rect x="{x:g}" y="{top + 1}" width="{part:g}" height="16" fill="{ink}"/>')
        for word in re.finditer(r"\S+(?: \S+)*", "".join(" " if "▁" <= sign <= "▏" else sign for sign, *_ in line)):
            start = word.start()
            _, ink, _, _, bold = line[start]
            style = (f' fill="{ink}"' if ink != INK else "") + (' font-weight="bold"' if bold else "")
            length = (word.end() - start) * WIDTH
            out.append(
                f'<text x="{MARGIN + start * WIDTH:g}" y="{top + 14}" textLength="{length:g}"{style}>{html.escape(word.group())}</text>'
            )
    return "\n".join([*out, "</g>", "</svg>", ""])


if len(sys.argv) != 2:
    sys.exit(__doc__)
picture = draw(capture(os.path.abspath(sys.argv[1])))
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "top.svg"), "w") as file:
    file.write(picture)
