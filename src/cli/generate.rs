//! `pcproxy man` and `pcproxy completions`: manual pages and completions for shells, from the table of
//! commands and options that also parses the command line.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Command, CommandFactory, ValueEnum};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use clap_mangen::Man;
use pcproxy::budget;
use pcproxy::control::{Request, ask, runs};

use super::Cli;
use super::print::print;

/// Set by the scripts of `pcproxy completions` when they ask for candidates.
const VARIABLE: &str = "PCPROXY_COMPLETE";

/// Zsh runs a script that it finds in its `fpath` as the function `_pcproxy`, at the first Tab. The script
/// of clap_complete only defines the function that completes, so the first Tab would show nothing.
const FIRST_TAB: &str = "
if [[ $funcstack[1] == _pcproxy ]]; then _clap_dynamic_completer_pcproxy \"$@\"; fi
";

/// Print the manual page of pcproxy, or of one of its commands
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcproxy man | man -l -
  pcproxy man group set | man -l -
  pcproxy man --dir /usr/local/share/man/man1")]
pub struct Manual {
    /// The command whose page to print, such as 'ctl' or 'group set'
    #[arg(conflicts_with = "dir")]
    command: Vec<String>,
    /// Write the pages of all commands into DIR
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Print the completions for a shell
///
/// The shell then completes options, files, sizes, rates, and the names of groups and of running
/// transfers.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bash: pcproxy completions bash > ~/.local/share/bash-completion/completions/pcproxy
  zsh:  pcproxy completions zsh > ~/.zfunc/_pcproxy
  fish: pcproxy completions fish > ~/.config/fish/completions/pcproxy.fish")]
pub struct Completions {
    /// The shell
    shell: Shell,
}

/// Shells that can be completed for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

impl Shell {
    fn name(self) -> &'static str {
        match self {
            Shell::Bash => "bash",
            Shell::Elvish => "elvish",
            Shell::Fish => "fish",
            Shell::Powershell => "powershell",
            Shell::Zsh => "zsh",
        }
    }
}

impl Manual {
    /// Prints the page, or writes all pages.
    ///
    /// # Errors
    /// When there is no such command, or a file cannot be written.
    pub fn run(&self) -> Result<()> {
        let root = table();
        if let Some(dir) = &self.dir {
            fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
            return pages(&root).iter().try_for_each(|command| {
                let path = dir.join(page_name(command)).with_extension("1");
                fs::write(&path, page(command, &root)?).with_context(|| path.display().to_string())
            });
        }
        let mut command = &root;
        for name in &self.command {
            command = command.find_subcommand(name).ok_or_else(|| {
                let names: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
                anyhow!("man: there is no command '{name}'; there is {}", names.join(", "))
            })?;
        }
        Ok(print(&page(command, &root)?)?)
    }
}

impl Completions {
    /// Prints the script.
    ///
    /// # Errors
    /// When stdout does not take it.
    pub fn run(&self) -> Result<()> {
        let mut script = Vec::new();
        let shells = Shells::builtins();
        let Some(shell) = shells.completer(self.shell.name()) else { bail!("completions: unknown shell") };
        shell.write_registration(VARIABLE, "pcproxy", "pcproxy", "pcproxy", &mut script)?;
        if let Shell::Zsh = self.shell {
            script.extend_from_slice(FIRST_TAB.as_bytes());
        }
        Ok(print(&String::from_utf8(script)?)?)
    }
}

/// Prints candidates and exits, if a script of [`Completions`] asks for them.
pub fn complete() {
    if std::env::var_os(VARIABLE).is_some() {
        CompleteEnv::with_factory(completing).var(VARIABLE).complete();
    }
}

/// The table of commands and options, for pages.
fn table() -> Command {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    root
}

/// All commands that have a page.
fn pages(command: &Command) -> Vec<&Command> {
    let below = command.get_subcommands().filter(|command| command.get_name() != "help").flat_map(pages);
    [command].into_iter().chain(below).collect()
}

/// Such as `pcproxy-group-set`.
fn page_name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

/// A manual page, in roff.
fn page(command: &Command, root: &Command) -> Result<String> {
    let man = Man::new(command.clone()).source(format!("pcproxy {}", env!("CARGO_PKG_VERSION")));
    let mut roff = Vec::new();
    man.render_title(&mut roff)?;
    man.render_name_section(&mut roff)?;
    man.render_synopsis_section(&mut roff)?;
    man.render_description_section(&mut roff)?;
    man.render_options_section(&mut roff)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut roff)?;
    }
    let mut page = String::from_utf8(roff)?;
    let help = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
    for paragraph in help.unwrap_or_default().split("\n\n") {
        if let Some(examples) = paragraph.strip_prefix("Examples:\n") {
            section(&mut page, "EXAMPLES", &verbatim(examples));
        } else if !paragraph.starts_with("Exit status:") && !paragraph.is_empty() {
            section(&mut page, "NOTES", &verbatim(paragraph));
        }
    }
    let is_transfer = command.get_name() == root.get_name();
    let run = command.get_name() == "run";
    let statuses = match (is_transfer, run) {
        (true, _) => TRANSFER_STATUSES,
        (_, true) => RUN_STATUSES,
        _ => COMMAND_STATUSES,
    };
    section(&mut page, "EXIT STATUS", &items(statuses));
    section(&mut page, "ENVIRONMENT", &items(ENVIRONMENT));
    section(&mut page, "FILES", &items(FILES));
    let own = page_name(command);
    let others = pages(root).into_iter().map(page_name).filter(|name| *name != own);
    let others = others.chain(["pv", "mbuffer", "tee"].map(str::to_owned));
    let others: Vec<_> = others.map(|name| format!("\\fB{}\\fR(1)", escaped(&name))).collect();
    section(&mut page, "SEE ALSO", &(others.join(",\n") + "\n"));
    Ok(page)
}

const TRANSFER_STATUSES: &[(&str, &str)] = &[
    ("0", "Everything that was read was delivered."),
    ("1", "An I/O error. A line on stderr names the side, and how many bytes were read and not delivered."),
    ("2", "The command line, or the group, was refused. Nothing was read."),
    ("141", "The consumer left first: pcproxy ended by SIGPIPE."),
    ("128 + N", "Signal N interrupted pcproxy, which delivered what was buffered and ended by that signal."),
];

const RUN_STATUSES: &[(&str, &str)] = &[
    ("that of the command", "The command ended by itself."),
    ("128 + N", "The command was ended by signal N."),
    ("2", "The command line was refused."),
    ("125, 126, 127", "pcproxy failed; the command cannot be run; the command was not found."),
];

const COMMAND_STATUSES: &[(&str, &str)] =
    &[("0", "Success."), ("1", "An error, which a line on stderr explains."), ("2", "The command line was refused.")];

const ENVIRONMENT: &[(&str, &str)] = &[
    ("PCPROXY_DIR", "The folder for groups and for the sockets of running transfers, as an absolute path."),
    ("TZ", "The time zone of timetables, and of the time of day in plots."),
    ("NO_COLOR", "If it is set and not empty, no colours are used."),
];

const FILES: &[(&str, &str)] = &[
    ("/run/lock/pcproxy-UID, /tmp/pcproxy-UID", "The folder that is used if PCPROXY_DIR is not set."),
    ("/proc/sys/fs/pipe-max-size", "The largest size of a pipe that the system allows for --pipe-size."),
];

fn section(page: &mut String, title: &str, text: &str) {
    page.push_str(&format!(".SH \"{title}\"\n{text}"));
}

/// Lines as they are.
fn verbatim(text: &str) -> String {
    let lines: String = text.lines().map(|line| escaped(line.strip_prefix("  ").unwrap_or(line)) + "\n").collect();
    format!(".nf\n{lines}.fi\n")
}

/// Words and what they mean.
fn items(items: &[(&str, &str)]) -> String {
    items.iter().map(|(word, text)| format!(".TP\n\\fB{}\\fR\n{}\n", escaped(word), escaped(text))).collect()
}

/// A text that roff takes for nothing else.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

/// The table of commands and options, with what is known of their values.
fn completing() -> Command {
    with_candidates(Cli::command())
}

fn with_candidates(command: Command) -> Command {
    let names: Vec<_> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let command = command.mut_args(|arg| {
        let words = arg.get_value_names().and_then(|names| names.first()).map(|name| name.as_str().to_owned());
        match words.as_deref() {
            Some("NAME" | "NAME[=RATE]") => arg.add(ArgValueCompleter::new(groups)),
            Some("PID|NAME") => arg.add(ArgValueCompleter::new(transfers)),
            Some(words) if words.starts_with("RATE") => {
                arg.add(ArgValueCompleter::new(fixed(&["1M", "10M", "100M", "80Mbit", "off"])))
            }
            Some(words) if words.starts_with("SIZE") => {
                arg.add(ArgValueCompleter::new(fixed(&["64K", "1M", "16M", "64M", "256M", "1G"])))
            }
            _ => arg,
        }
    });
    // `name` of a group's command has no words of its own.
    let command = command.mut_args(|arg| {
        let is_name = arg.get_id() == "name" && arg.get_value_names().is_none();
        if is_name { arg.add(ArgValueCompleter::new(groups)) } else { arg }
    });
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_candidates))
}

/// Those of `all` that begin with what is there already.
fn beginning(current: &OsStr, all: impl IntoIterator<Item = String>) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    all.into_iter().filter(|name| name.starts_with(current.as_ref())).map(CompletionCandidate::new).collect()
}

fn fixed(all: &'static [&'static str]) -> impl Fn(&OsStr) -> Vec<CompletionCandidate> {
    move |current| beginning(current, all.iter().map(|name| (*name).to_owned()))
}

/// The groups there are.
fn groups(current: &OsStr) -> Vec<CompletionCandidate> {
    let groups = budget::list().map(|listing| listing.groups).unwrap_or_default();
    beginning(current, groups.iter().map(|(name, _)| name.to_string()))
}

/// The names of running transfers, and the pids of those without a name.
fn transfers(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut runs = runs().unwrap_or_default();
    let answers = ask(&mut runs, &Request::Stats {});
    let names = answers.into_iter().flatten().map(|status| status.name.unwrap_or_else(|| status.pid.to_string()));
    let mut names: Vec<_> = names.collect();
    names.sort();
    names.dedup();
    beginning(current, names)
}

/// The table of options for the guide, in Markdown.
#[cfg(test)]
fn options() -> String {
    let mut rows = String::from("| option | default | |\n|---|---|---|\n");
    let command = Cli::command();
    for arg in command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set()) {
        let value = arg.get_value_names().filter(|_| arg.get_action().takes_values());
        let value = value.map_or_else(String::new, |names| format!(" {}", names[0].replace('|', "\\|")));
        let shorts = arg.get_short().into_iter().chain(arg.get_visible_short_aliases().unwrap_or_default());
        let shorts: String = shorts.map(|short| format!("`-{short}`, ")).collect();
        let long = arg.get_long().unwrap();
        let default = arg.get_default_values().first().filter(|_| arg.get_action().takes_values());
        let default = default.map_or_else(String::new, |value| format!("`{}`", value.to_string_lossy()));
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        // Where the default is not a value, the help tells it.
        let (help, told) = help.split_once(" [default: ").unwrap_or((&help, ""));
        let told = told.trim_end_matches(']');
        let default = if told.is_empty() { default } else { format!("`{told}`") };
        let help = help.replace('|', "\\|");
        rows += &format!("| {shorts}`--{long}{value}` | {default} | {help} |\n").replace("|  |", "| |");
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_guide_has_every_option_as_the_command_line_has_it() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide.md");
        let guide = fs::read_to_string(path).unwrap();
        let table = options();
        let missing: Vec<_> = table.lines().filter(|row| !guide.contains(row)).collect();
        assert!(guide.contains(&table), "docs/guide.md: the table of options must be\n{table}\nmissing: {missing:#?}");
    }

    #[test]
    fn every_command_has_a_page_with_all_sections() {
        let root = table();
        let all = pages(&root);
        assert!(all.len() > 12, "{}", all.len());
        for command in all {
            let page = page(command, &root).unwrap();
            for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO"] {
                let heading = [format!(".SH {section}\n"), format!(".SH \"{section}\"\n")];
                assert!(heading.iter().any(|heading| page.contains(heading)), "{}: {section}", command.get_name());
            }
            let has_examples = ["EXAMPLES"].iter().all(|section| page.contains(section));
            assert!(has_examples || page_name(command).matches('-').count() > 1, "{}", command.get_name());
            // A line that begins with a quote or a point would be a request to roff.
            assert!(!page.lines().any(|line| line.starts_with('\'')), "{page}");
        }
    }

    #[test]
    fn values_are_completed_with_what_there_is() {
        let names = |candidates: Vec<CompletionCandidate>| -> Vec<String> {
            candidates.iter().map(|candidate| candidate.get_value().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names(fixed(&["1M", "10M", "off"])(OsStr::new("1"))), ["1M", "10M"]);
        let command = completing();
        let set = command.find_subcommand("group").unwrap().find_subcommand("set").unwrap();
        assert!(set.get_arguments().any(|arg| arg.get_id() == "name" && arg.get::<ArgValueCompleter>().is_some()));
        let ctl = command.find_subcommand("ctl").unwrap();
        assert!(ctl.get_arguments().any(|arg| arg.get_id() == "target" && arg.get::<ArgValueCompleter>().is_some()));
        assert!(
            command.get_arguments().any(|arg| arg.get_id() == "buffer" && arg.get::<ArgValueCompleter>().is_some())
        );
    }
}
