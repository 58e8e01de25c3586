#!/usr/bin/env python3
"""Remakes the pictures of the docs from real runs: progress.svg and top.svg are what tmux shows on its
screen, plot.svg and compare.svg are what `pcproxy plot` draws. Needs tmux, gzip and two minutes.

usage: docs/pictures/remake.py PCPROXY [PICTURE...]
"""
import html
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager

HERE = os.path.dirname(os.path.abspath(__file__))
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


class Scene:
    """A folder of its own, with groups and sockets, files, and a terminal."""

    def __init__(self, pcproxy, folder):
        self.folder, self.started = folder, []
        path = f"{os.path.dirname(pcproxy)}:{os.environ['PATH']}"
        self.env = dict(os.environ, PATH=path, PCPROXY_DIR=folder, TMUX_TMPDIR=folder, LC_ALL="C.UTF-8")
        self.env.pop("TMUX", None)

    def run(self, *words):
        done = subprocess.run(words, env=self.env, cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout

    def start(self, script):
        self.started.append(
            subprocess.Popen(
                ["sh", "-c", script], env=self.env, cwd=self.folder, start_new_session=True, stderr=subprocess.DEVNULL
            )
        )
        return self.started[-1]

    def tmux(self, *words):
        return self.run("tmux", "-u", "-f", "/dev/null", "-L", "picture", *words)

    def type(self, command):
        self.tmux("send-keys", "-l", command)
        self.tmux("send-keys", "Enter")

    def screen(self):
        """What is on the screen, with its colours as escape sequences."""
        return self.tmux("capture-pane", "-e", "-p")

    def wait(self, words):
        while words not in self.tmux("capture-pane", "-p"):
            time.sleep(0.1)

    def end(self):
        subprocess.run(["tmux", "-L", "picture", "kill-server"], env=self.env, capture_output=True)
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, 15)
                process.wait()


@contextmanager
def scene(pcproxy):
    with tempfile.TemporaryDirectory() as folder:
        made = Scene(pcproxy, folder)
        try:
            yield made
        finally:
            made.end()


def top(pcproxy):
    with scene(pcproxy) as at:
        at.run("pcproxy", "group", "set", "uplink", "16M")
        at.run("pcproxy", "group", "set", "uplink/office", "8M")
        for name, options, producer, consumer in TRANSFERS:
            at.start(f"{producer} | pcproxy -q --name {name} {options} | {SLOW if consumer == 'SLOW' else consumer}")
        at.tmux("new-session", "-d", "-x", "108", "-y", "12", "pcproxy top")
        time.sleep(62)
        at.run("pcproxy", "ctl", "wiki", "pause")
        at.tmux("send-keys", "g", "Down", "Down", "Down")
        time.sleep(2.5)
        title = "pcproxy top: five transfers in two groups, when they are finished, and how fast each was in the last minute"
        return draw(at.screen(), 108, title)


def progress(pcproxy):
    with scene(pcproxy) as at:
        at.run("sh", "-c", "head -c 48M /dev/zero >disk.img; head -c 90M /dev/urandom | base64 >shop.sql")
        at.tmux("new-session", "-d", "-x", "108", "-y", "12", "env", "PS1=$ ", "sh")
        at.type("pcproxy -N backup --rate 20M --summary disk.img -o copy.img")
        at.wait("limited:")
        at.type("pcproxy -N read shop.sql | gzip | pcproxy -N gzip --rate 8Mbit >shop.sql.gz")
        at.wait("gzip:")
        time.sleep(9)
        title = "The progress lines of pcproxy: a finished transfer with its summary, and two in one pipeline"
        return draw(at.screen(), 108, title)


# A consumer that takes 3 MiB per second for a while.
STUTTER = "sh -c 'head -c 24M >/dev/null; for _ in 1 2 3 4 5 6 7 8; do head -c 1M >/dev/null; sleep .33; done; cat >/dev/null'"


def record(at, name, options, steer=()):
    """Starts a run whose records go to NAME.jsonl. Steered are pairs of seconds and words for ctl."""
    run = at.start(f"pcproxy -q -N {name} {options} -i 250ms --stats {name}.jsonl </dev/zero | {STUTTER}")
    for seconds, words in steer:
        time.sleep(seconds)
        at.run("pcproxy", "ctl", name, *words.split())
    return run


def plot(pcproxy):
    with scene(pcproxy) as at:
        steer = [(6, "rate 8M"), (7, "pause"), (2, "resume"), (2, "rate 3M")]
        record(at, "dump", "--rate 4M --buffer 8M --low-water 25% --stop-after 88M", steer).wait()
        at.run("pcproxy", "plot", "dump.jsonl", "-o", "dump.svg")
        return open(f"{at.folder}/dump.svg").read()


def compare(pcproxy):
    with scene(pcproxy) as at:
        runs = [
            record(at, "before", "--rate 6M --buffer 64K --stop-after 80M"),
            record(at, "after", "--rate 6M --burst 4M --buffer 8M --stop-after 80M"),
        ]
        for run in runs:
            run.wait()
        at.run("pcproxy", "plot", "before.jsonl", "after.jsonl", "-o", "both.svg")
        return open(f"{at.folder}/both.svg").read()


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


def draw(text, columns, title):
    lines = text.rstrip("\n").split("\n")
    size = (columns * WIDTH + 2 * MARGIN, len(lines) * HEIGHT + 2 * MARGIN - 6)
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
                out.append(f'<rect x="{x:g}" y="{top + 17 - full:g}" width="{WIDTH + .6:g}" height="{full}" fill="{ink}"/>')
            elif "▉" <= sign <= "▏":
                part = WIDTH * (8 - (ord(sign) - ord("█"))) / 8
                out.append(f'<rect x="{x:g}" y="{top + 1}" width="{part:g}" height="16" fill="{ink}"/>')
            elif sign == "▕":
                out.append(f'<rect x="{x + WIDTH * 7 / 8:g}" y="{top + 1}" width="{WIDTH / 8:g}" height="16" fill="{ink}"/>')
        column = 0
        for (ink, bold), cells_of_style in itertools.groupby(line, lambda cell: (cell[1], cell[4])):
            text = "".join(" " if "▁" <= sign <= "▕" else sign for sign, *_ in cells_of_style)
            for word in re.finditer(r"\S+(?: \S+)*", text):
                style = (f' fill="{ink}"' if ink != INK else "") + (' font-weight="bold"' if bold else "")
                x, length = MARGIN + (column + word.start()) * WIDTH, len(word.group()) * WIDTH
                out.append(
                    f'<text x="{x:g}" y="{top + 14}" textLength="{length:g}"{style}>{html.escape(word.group())}</text>'
                )
            column += len(text)
    return "\n".join([*out, "</g>", "</svg>", ""])


PICTURES = {"progress": progress, "plot": plot, "compare": compare, "top": top}

if len(sys.argv) < 2 or not set(sys.argv[2:]) <= set(PICTURES):
    sys.exit(__doc__)
for name in sys.argv[2:] or PICTURES:
    picture = PICTURES[name](os.path.abspath(sys.argv[1]))
    with open(f"{HERE}/{name}.svg", "w") as file:
        file.write(picture)
