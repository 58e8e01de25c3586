//! `pcproxy group share` and `unshare`: one limit for many machines.

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use pcproxy::budget::site::{OFF, Site};
use pcproxy::budget::valkey::{Address, Binding, STORE};
use pcproxy::budget::{self, Name, Shared};
use pcproxy::units::{parse_rate, show_rate};
use serde::Serialize;

use super::words;

/// The options of `group share`.
#[derive(Debug, Args)]
pub struct Share {
    /// The group
    name: Name,
    /// Where the limit is kept [default: $PCPROXY_STORE]
    ///
    /// valkey://[USER@]HOST[:PORT][/DATABASE], redis://, rediss:// (TLS), valkey+unix:///PATH, or
    /// valkey+sentinel://HOST,HOST/NAME
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Read the password from the first line of FILE [default: $PCPROXY_STORE_PASSWORD]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Trust servers that these certificates (PEM) vouch for
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Show this certificate (PEM) to the server
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Go on at RATE when the store has been away for a minute; without it members wait
    ///
    /// This machine then no longer knows what the others use, so together they may exceed the limit.
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    fallback: Option<u64>,
    /// The part of the limit that machines keep for a minute when the store is away [default: 25%]
    #[arg(long, value_name = "N%", value_parser = percent)]
    floor: Option<u32>,
}

impl Share {
    /// Whether the options make sense together.
    pub fn check(&self) -> Result<()> {
        self.address().map(|_| ())
    }

    /// The address of the store. Errors do not repeat it: there may be a password in it.
    fn address(&self) -> Result<Address> {
        let Some(text) = self.store.clone().or_else(|| std::env::var(STORE).ok()) else {
            bail!("where is the limit to be kept? Give --store URL, or set {STORE}");
        };
        let address: Address = text.parse().map_err(|error| anyhow!("--store {error}"))?;
        if address.has_password() && self.store.is_some() {
            bail!(
                "--store has a password in it, which others can see: use --password-file, or set PCPROXY_STORE_PASSWORD"
            );
        }
        Ok(address)
    }

    /// Binds the group to the store.
    pub fn run(&self) -> Result<()> {
        let full = |path: &PathBuf| std::path::absolute(path);
        let binding = Binding {
            store: self.address()?.to_string(),
            password_file: self.password_file.as_ref().map(full).transpose()?,
            ca: self.ca.as_ref().map(full).transpose()?,
            certificate: match (&self.cert, &self.key) {
                (Some(cert), Some(key)) => Some((full(cert)?, full(key)?)),
                _ => None,
            },
            fallback: self.fallback,
        };
        Ok(budget::share(&self.name, binding, self.floor)?)
    }
}

/// Ends that a group is shared.
pub fn unshare(name: &Name) -> Result<()> {
    let kept = budget::unshare(name)?;
    let limit = kept.map_or("no limit".to_owned(), |rate| format!("a limit of {}", show_rate(rate as f64)));
    pcproxy::report::say(format!("group {name} is shared no more; it has {limit} on this machine alone"));
    Ok(())
}

fn percent(text: &str) -> Result<u32> {
    match text.strip_suffix('%').unwrap_or(text).parse() {
        Ok(percent @ 0..=100) => Ok(percent),
        _ => bail!("is not a percentage: use 0% to 100%"),
    }
}

/// The store of a group, as `group ls --json` has it. Rates are in bytes per second.
#[derive(Serialize)]
pub struct ListedStore {
    /// The address.
    url: String,
    /// The limit of all machines together; none if it was lifted, or none is known.
    limit: Option<u64>,
    /// What this machine may use now; none if nothing is lent to it.
    lent: Option<u64>,
    /// Why the store does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    machines: Vec<ListedMachine>,
}

#[derive(Serialize)]
struct ListedMachine {
    name: String,
    /// What its members moved of late.
    rate: u64,
    /// What it may use.
    lent: u64,
    /// What it may use for a minute when the store is away.
    floor: u64,
    /// Sum of the weights of its members that are not idle.
    weight: u64,
}

impl ListedStore {
    /// The limit of all machines together, in bytes per second, if there is one.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }
}

/// Asks the store of a group what it knows.
pub fn listed(name: &Name, shared: &Shared) -> ListedStore {
    let looked = budget::look(name, shared);
    let error = looked.as_ref().err().map(ToString::to_string);
    let site = looked.unwrap_or_else(|_| Site::with_limit(shared.lease.limit));
    let machines = site.machines().iter().filter(|machine| site.is_live(machine)).map(|machine| ListedMachine {
        name: machine.name.clone(),
        rate: machine.moved as u64,
        lent: machine.charge as u64,
        floor: machine.floor as u64,
        weight: machine.weight as u64,
    });
    ListedStore {
        url: shared.binding.store.clone(),
        limit: Some(site.limit.rate).filter(|rate| (1..OFF).contains(rate)),
        lent: shared.allowed_now(),
        error,
        machines: machines.collect(),
    }
}

/// A line for each machine that shares a group, below a line for all of them.
pub fn table(group: &str, store: &ListedStore) -> String {
    let rate = |rate: u64| show_rate(rate as f64);
    let limit = store.limit.map_or("none".to_owned(), rate);
    if let Some(error) = &store.error {
        let lent = store.lent.map_or("nothing".to_owned(), rate);
        return format!("{group} on all machines: limit {limit}, of which this machine has {lent}; {error}\n");
    }
    let header = ["MACHINE", "RATE", "LENT", "FLOOR", "WEIGHT"];
    let all = store.machines.iter().map(|machine| machine.rate).sum();
    let whole = vec!["all".to_owned(), rate(all), limit];
    let rows = store.machines.iter().map(|machine| {
        let name = machine.name.chars().filter(|sign| !sign.is_control()).collect();
        vec![name, rate(machine.rate), rate(machine.lent), rate(machine.floor), machine.weight.to_string()]
    });
    let table = words::table(&header, &["MACHINE"], std::iter::once(whole).chain(rows));
    format!("{group} on all machines, in {}:\n{table}\n", store.url)
}
