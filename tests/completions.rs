//! Completions, asked of the shells themselves.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use support::needs;
use support::running::{at_home, neutral};

/// Where a package puts the completions of a shell.
const PLACES: [(&str, &str); 3] = [
    ("bash", "bash-completion/completions/pcproxy"),
    ("zsh", "zsh/vendor-completions/_pcproxy"),
    ("fish", "fish/vendor_completions.d/pcproxy.fish"),
];

/// Types `typed` and Tab in a new shell, and waits until `expected` is on its screen.
fn completes(shell: &str, typed: &str, expected: &str) {
    if !needs("tmux") || !needs(shell) {
        return;
    }
    let place = PLACES.iter().find(|(name, _)| *name == shell).unwrap().1;
    let folder = tempfile::tempdir().unwrap();
    let pcproxy = |words: &[&str]| {
        let mut command = neutral(env!("CARGO_BIN_EXE_pcproxy"));
        let output = at_home(&mut command, folder.path()).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        output.stdout
    };
    let root = folder.path().join("root");
    let file = root.join("usr/share").join(place);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    symlink(env!("CARGO_BIN_EXE_pcproxy"), root.join("usr/bin/pcproxy")).unwrap();
    fs::write(file, pcproxy(&["completions", shell])).unwrap();
    pcproxy(&["group", "set", "uplink", "10M"]);

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/complete");
    let mut command = neutral(script);
    at_home(&mut command, folder.path()).arg(shell).arg(root).args([typed, expected]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn bash_completes_options() {
    completes("bash", "pcproxy --summ", " --summary");
}

#[test]
fn fish_completes_the_names_of_groups() {
    completes("fish", "pcproxy group set upl", " uplink");
}

#[test]
fn the_first_tab_in_zsh_completes() {
    completes("zsh", "pcproxy group set upl", " uplink");
}
