//! The house: every room in `src/` imports from lower floors only. The floors are read from the
//! table in `docs/design.md`, so the page and the code cannot drift apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Imports that break the rule and are known: file, imported room, and why they are still there.
/// A row whose import is gone fails the test, so that the row goes as well.
const EXCEPTIONS: [(&str, &str, &str); 0] = [];

/// How the table of the house begins.
const TABLE: &str = "| floor | room |";

/// The floor of each room by name: `budget` for `src/budget/`, `main.rs` for `src/main.rs`.
type Floors = BTreeMap<String, u32>;

/// Reads the table: a floor, and one or more rooms in backquotes, to a row.
fn floors(page: &str) -> Floors {
    let table = page.lines().skip_while(|line| !line.starts_with(TABLE)).take_while(|line| line.starts_with('|'));
    let mut floors = Floors::new();
    for row in table.skip(2) {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let floor = cells.next().and_then(|floor| floor.parse().ok());
        let floor: u32 = floor.unwrap_or_else(|| panic!("docs/design.md: no floor in the row {row:?}"));
        let rooms = cells.next().unwrap_or_default();
        for room in rooms.split('`').skip(1).step_by(2) {
            let before = floors.insert(room.trim_end_matches('/').to_owned(), floor);
            assert_eq!(before, None, "docs/design.md: {room} stands in two rows of the table");
        }
    }
    floors
}

/// All source files under this folder.
fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            sources(&entry, into);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            into.push(entry);
        }
    }
}

/// The same text with spaces in place of comments, and of what stands in quotation marks. The
/// lines and columns stay where they are.
fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::new();
    let blank = |from: usize, to: usize, code: &mut String| {
        let blanked = chars[from..to.min(chars.len())].iter().map(|&c| if c == '\n' { c } else { ' ' });
        code.extend(blanked);
        to.min(chars.len())
    };
    let starts = |at: usize, word: &str| word.chars().enumerate().all(|(offset, c)| chars.get(at + offset) == Some(&c));
    let find = |from: usize, word: &str| (from..chars.len()).find(|&at| starts(at, word)).map(|at| at + word.len());
    let mut at = 0;
    while at < chars.len() {
        let is_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
        at = if starts(at, "//") {
            let end = find(at, "\n").map_or(chars.len(), |end| end - 1);
            blank(at, end, &mut code)
        } else if starts(at, "/*") {
            blank(at, find(at, "*/").unwrap_or(chars.len()), &mut code)
        } else if chars[at] == 'r' && !is_word && (starts(at, "r\"") || starts(at, "r#\"") || starts(at, "r##\"")) {
            let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
            let close = format!("\"{}", "#".repeat(hashes));
            blank(at, find(at + hashes + 2, &close).unwrap_or(chars.len()), &mut code)
        } else if chars[at] == '"' {
            let mut end = at + 1;
            while end < chars.len() && chars[end] != '"' {
                end += if chars[end] == '\\' { 2 } else { 1 };
            }
            blank(at, end + 1, &mut code)
        } else if chars[at] == '\'' && starts(at + 1, "\\") {
            // A character, where a lifetime has no backslash and no second quotation mark.
            blank(at, find(at + 3, "'").unwrap_or(chars.len()), &mut code)
        } else if chars[at] == '\'' && starts(at + 2, "'") {
            blank(at, at + 3, &mut code)
        } else {
            code.push(chars[at]);
            at + 1
        };
    }
    code
}

/// The same code with spaces in place of items that are compiled for tests only, and the names
/// of the modules among them that stand in files of their own.
fn without_tests(code: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let (mut code, mut modules) = (code.to_owned(), Vec::new());
    while let Some(start) = code.find(MARK) {
        let item = &code[start + MARK.len()..];
        let stop = item.find([';', '{']).expect("an item after #[cfg(test)]");
        let length = if item[stop..].starts_with(';') {
            let name = item[..stop].split_whitespace().last().unwrap_or_default().to_owned();
            modules.extend(item[..stop].contains("mod ").then_some(name));
            stop + 1
        } else {
            let mut depth = 0;
            let end = item.char_indices().skip_while(|&(at, _)| at < stop).find(|&(_, c)| {
                depth += i32::from(c == '{') - i32::from(c == '}');
                depth == 0
            });
            end.expect("braces that close").0 + 1
        };
        let end = start + MARK.len() + length;
        let blanked: String = code[start..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        code.replace_range(start..end, &blanked);
    }
    (code, modules)
}

/// The first segments of a path that has this text after its root: one, or as many as there are
/// in braces.
fn first_segments(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        let text = text.trim_start().trim_start_matches("r#");
        if text.starts_with('*') {
            return "*".to_owned();
        }
        text.chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect()
    };
    let Some(group) = rest.trim_start().strip_prefix('{') else { return vec![name(rest)] };
    let (mut depth, mut from, mut names) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&group[from..at]));
                from = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Where the crate's root is mentioned in `code`, and what is taken from there: the line and the
/// first segment of each path. `depth` is how many `super::` lead from this file to the root.
fn imports(code: &str, roots: &[&str], depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let up = "super::".repeat(depth);
    let more_roots = if depth > 0 { vec![up.as_str()] } else { vec![] };
    let with_colons: Vec<String> = roots.iter().map(|root| format!("{root}::")).collect();
    for root in with_colons.iter().map(String::as_str).chain(more_roots) {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let line = 1 + code[..at].matches('\n').count();
            found.extend(first_segments(&code[at + root.len()..]).into_iter().map(|name| (line, name)));
        }
    }
    found
}

/// The room of a file: the first folder below `src/`, or the file's own name.
fn room_of(file: &Path) -> String {
    file.components().nth(1).unwrap().as_os_str().to_str().unwrap().to_owned()
}

/// What is wrong with an import of `imported` by a file of `room`; nothing if it is allowed.
fn fault(floors: &Floors, room: &str, imported: &str) -> Option<String> {
    let below = floors[room];
    match floors.get(imported) {
        _ if imported == room => None,
        None => Some(format!("imports '{imported}', which is no room of the table in docs/design.md")),
        Some(&floor) if floor < below => None,
        Some(&floor) => Some(format!(
            "{room} (floor {below}) imports {imported} (floor {floor}); \
             a room imports only from floors below its own, see the table in docs/design.md"
        )),
    }
}

#[test]
fn every_room_imports_only_from_floors_below_its_own() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let floors = floors(&fs::read_to_string(home.join("docs/design.md")).unwrap());
    let mut files = Vec::new();
    sources(&home.join("src"), &mut files);
    let mut faults = Vec::new();
    let mut excepted = BTreeSet::new();

    // First all code, to know which files are tests altogether.
    let mut code = BTreeMap::new();
    let mut tests = Vec::new();
    for file in &files {
        let (text, modules) = without_tests(&code_only(&fs::read_to_string(file).unwrap()));
        let folder = match file.file_name().and_then(|name| name.to_str()) {
            Some("mod.rs" | "main.rs" | "lib.rs") => file.parent().unwrap().to_owned(),
            _ => file.with_extension(""),
        };
        tests.extend(modules.iter().flat_map(|name| [folder.join(name), folder.join(name).with_extension("rs")]));
        code.insert(file.strip_prefix(home).unwrap(), text);
    }
    code.retain(|file, _| !tests.iter().any(|test| home.join(file).starts_with(test)));

    let rooms: BTreeSet<_> = code.keys().map(|file| room_of(file)).collect();
    for room in rooms.iter().filter(|room| !floors.contains_key(*room)) {
        faults.push(format!("src/{room} is in no row of the table of the house in docs/design.md: give it a floor"));
    }
    for room in floors.keys().filter(|room| !rooms.contains(*room)) {
        faults.push(format!("docs/design.md: the room '{room}' of the table of the house is not in src/"));
    }
    for (file, text) in code.iter().filter(|(file, _)| floors.contains_key(&room_of(file))) {
        let room = room_of(file);
        // The binary has two rooms of its own; the library is another crate for it.
        let is_binary = ["main.rs", "cli"].contains(&room.as_str());
        let roots: &[&str] = if is_binary { &["crate", "pcproxy"] } else { &["crate"] };
        let is_module_file = file.ends_with("mod.rs") || file.components().count() == 2;
        let depth = file.components().count() - 1 - usize::from(is_module_file);
        for (line, imported) in imports(text, roots, depth) {
            let Some(fault) = fault(&floors, &room, &imported) else { continue };
            let name = file.to_str().unwrap();
            match EXCEPTIONS.iter().find(|(file, room, _)| (*file, *room) == (name, &imported)) {
                Some(exception) => _ = excepted.insert(exception),
                None => faults.push(format!("{name}:{line}: {fault}")),
            }
        }
    }
    for (file, room, why) in EXCEPTIONS.iter().filter(|exception| !excepted.contains(exception)) {
        faults.push(format!("tests/house.rs: {file} no longer imports {room} ({why}): remove the row of EXCEPTIONS"));
    }
    assert!(faults.is_empty(), "the house has faults:\n{}", faults.join("\n"));
}

#[test]
fn an_import_is_found_however_it_is_written() {
    let source = r##"
//! A page that mentions crate::comment.
use crate::plain::Thing;
use crate::{
    first::{One, Two},
    second,
};
pub use crate::open::*;
/// [`Link`](crate::link::Link)
fn work() -> crate::answer::Answer {
    let text = "crate::text and \" crate::more";
    let raw = r#"crate::raw " "#;
    let (quote, lifetime): (char, &'static str) = ('"', "crate::after");
    $crate::macros::call!('\'', notcrate::other);
    super::sibling::call();
    super::super::cousin::call(); /* crate::block */
}
#[cfg(test)]
mod tests {
    use crate::tested::Thing;
    fn nested() { let x = { 1 }; }
}
use crate::last;
"##;
    let (code, modules) = without_tests(&code_only(source));
    let mut found = imports(&code, &["crate"], 2);
    found.sort();
    let expected = [
        (3, "plain"),
        (4, "first"),
        (4, "second"),
        (8, "open"),
        (10, "answer"),
        (14, "macros"),
        (16, "cousin"),
        (23, "last"),
    ];
    assert_eq!(found, expected.map(|(line, name)| (line, name.to_owned())));
    assert!(modules.is_empty());
    assert_eq!(without_tests("#[cfg(test)]\nmod tests;\nmod other;").1, ["tests"]);
}

#[test]
fn an_import_from_the_same_floor_or_from_above_is_a_fault() {
    let page = "text\n| floor | room | what |\n|---|---|---|\n| 3 | `top.rs` | a |\n| 2 | `one/`, `other/` | b |\n| 1 | `low/` | c |\n\n| 9 | `no/` |\n";
    let floors = floors(page);
    assert_eq!(floors.len(), 4);
    assert_eq!(fault(&floors, "one", "low"), None);
    assert_eq!(fault(&floors, "one", "one"), None);
    for (room, imported) in [("one", "other"), ("low", "one"), ("one", "nowhere"), ("one", "*")] {
        let fault = fault(&floors, room, imported).unwrap();
        assert!(fault.contains(imported), "{fault}");
    }
}
