//! The store of a limit that many machines share: a server that speaks the protocol of Valkey.

use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Name;
use super::plan::{Plan, Report};
use super::resp::{Connection, Value};
use super::site::{Reply, Request, Site, SiteLimit};
use super::wire;

/// The rule, for the server.
const SCRIPT: &str = include_str!("site.lua");

/// What the server calls the script.
static SHA: LazyLock<String> = LazyLock::new(|| sha1_smol::Sha1::from(SCRIPT).digest().to_string());

/// The exchange of plans, for the server.
const PLAN_SCRIPT: &str = include_str!("plan.lua");
static PLAN_SHA: LazyLock<String> = LazyLock::new(|| sha1_smol::Sha1::from(PLAN_SCRIPT).digest().to_string());

/// What machines have used in a period is kept for so many milliseconds after the latest report: for
/// two months.
const KEPT_FOR: u64 = 62 * 86_400_000;

/// How long a server may take to accept a connection, and to answer a call.
const PATIENCE: Duration = Duration::from_millis(400);

/// The environment has the store of all groups, and its password, under these names.
pub const STORE: &str = "PCPROXY_STORE";
const PASSWORD: &str = "PCPROXY_STORE_PASSWORD";

/// The port of a server, and of a sentinel, where the address names none.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Where a store is and how to get in, but for its password.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The address, without a password.
    pub store: String,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// Certificates of those who may vouch for the server, in PEM; those of the system if nothing.
    pub ca: Option<PathBuf>,
    /// The certificate and the key of this machine, in PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Bytes per second that this machine uses when the store has been away for so long that its
    /// floor has ended; nothing pauses it.
    pub fallback: Option<u64>,
}

impl Binding {
    /// What the environment says beside the address.
    pub(super) fn from_environment() -> Binding {
        let path = |name| env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let certificate = path("PCPROXY_STORE_CERT").zip(path("PCPROXY_STORE_KEY"));
        Binding {
            password_file: path("PCPROXY_STORE_PASSWORD_FILE"),
            ca: path("PCPROXY_STORE_CA"),
            certificate,
            ..Binding::default()
        }
    }
}

/// The address of a store.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    scheme: String,
    user: Option<String>,
    password: Option<String>,
    place: Place,
    database: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Tcp(String, u16),
    Unix(PathBuf),
    /// Sentinels, which know where the server of this name is.
    Sentinels(Vec<(String, u16)>, String),
}

/// A text is not the address of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressError;

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "is not the address of a store: use valkey://[USER@]HOST[:PORT][/DATABASE], redis:// or rediss:// (TLS), \
             valkey+unix:///PATH, or valkey+sentinel://HOST,HOST/NAME",
        )
    }
}

impl std::error::Error for AddressError {}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = text.split_once("://").ok_or(AddressError)?;
        let (server, way) = scheme.split_once('+').unwrap_or((scheme, "tcp"));
        if !["valkey", "redis", "valkeys", "rediss"].contains(&server) || rest.chars().any(char::is_control) {
            return Err(AddressError);
        }
        let (who, rest) = rest.rsplit_once('@').map_or((None, rest), |(who, rest)| (Some(who), rest));
        let (user, password) = who.map_or((None, None), |who| match who.split_once(':') {
            Some((user, password)) => (Some(decoded(user)), Some(decoded(password))),
            None => (Some(decoded(who)), None),
        });
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut database = 0;
        let place = match way {
            "tcp" => {
                database = if path.is_empty() { 0 } else { path.parse().map_err(|_| AddressError)? };
                let (host, port) = host(hosts, PORT)?;
                Place::Tcp(host, port)
            }
            "unix" if hosts.is_empty() && !path.is_empty() => Place::Unix(format!("/{path}").into()),
            "sentinel" if !path.is_empty() => {
                let hosts: Result<_, _> = hosts.split(',').map(|text| host(text, SENTINEL_PORT)).collect();
                Place::Sentinels(hosts?, path.to_owned())
            }
            _ => return Err(AddressError),
        };
        Ok(Address {
            scheme: scheme.to_owned(),
            user: user.filter(|user| !user.is_empty()),
            password: password.filter(|password| !password.is_empty()),
            place,
            database,
        })
    }
}

/// A host and its port, if it has one. An IPv6 address stands in brackets.
fn host(text: &str, port: u16) -> Result<(String, u16), AddressError> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, port),
        Some((host, rest)) => (host, rest.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or(AddressError)?),
        None => match text.split_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| AddressError)?),
            None => (text, port),
        },
    };
    if host.is_empty() || host.contains(char::is_whitespace) { Err(AddressError) } else { Ok((host.to_owned(), port)) }
}

/// Text with `%2F` and the like in it.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let code = others.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match code.filter(|_| *first == b'%') {
            Some(byte) => (bytes.push(byte), rest = &others[2..]).1,
            None => (bytes.push(*first), rest = others).1,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Without the password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        let shown = |host: &String, port: u16, usual: u16| {
            let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            if port == usual { host } else { format!("{host}:{port}") }
        };
        match &self.place {
            Place::Tcp(host, port) => write!(f, "{}", shown(host, *port, PORT))?,
            Place::Unix(path) => write!(f, "{}", path.display())?,
            Place::Sentinels(hosts, name) => {
                let hosts: Vec<_> = hosts.iter().map(|(host, port)| shown(host, *port, SENTINEL_PORT)).collect();
                write!(f, "{}/{name}", hosts.join(","))?;
            }
        }
        if self.database > 0 { write!(f, "/{}", self.database) } else { Ok(()) }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

impl Address {
    /// The address has a password in it.
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    fn is_encrypted(&self) -> bool {
        self.scheme.starts_with("valkeys") || self.scheme.starts_with("rediss")
    }
}

/// Why a store cannot be used. It names the store, without secrets, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    store: String,
    reason: String,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store {}: {}", self.store, self.reason)
    }
}

impl std::error::Error for StoreError {}

/// A store, and a connection to it while there is one.
#[derive(Debug)]
pub struct Store {
    address: Address,
    binding: Binding,
    connection: Option<(Connection, u64)>,
    /// The node of a cluster that has the groups, where it is not the one at the address.
    moved: Option<(String, u16)>,
}

impl Store {
    /// A store that is connected to when it is first asked.
    ///
    /// # Errors
    /// When the binding has no address of a store in it.
    pub fn new(binding: Binding) -> Result<Self, StoreError> {
        let address = binding.store.parse();
        let address: Address = address
            .map_err(|error: AddressError| StoreError { store: binding.store.clone(), reason: error.to_string() })?;
        Ok(Store { address, binding, connection: None, moved: None })
    }

    /// Asks for a share of a group's limit, of which the machine knows `known`.
    ///
    /// # Errors
    /// When the store cannot be reached, refuses, or does not answer in time. The request may have
    /// been heard all the same.
    pub fn renew(&mut self, group: &Name, request: &Request, known: SiteLimit) -> Result<Reply, StoreError> {
        let answer = self.run(group, |run| wire::request(&Request { run, ..request.clone() }))?;
        wire::reply(&answer, request, known).ok_or_else(|| self.error("has data of another version of pcproxy"))
    }

    /// Sets the limit of a group on all machines. `known` is the newest generation of the limit
    /// that this machine has heard of. Returns the limit with its new generation.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    pub fn set(&mut self, group: &Name, limit: SiteLimit, known: u32) -> Result<SiteLimit, StoreError> {
        let answer = self.run(group, |run| wire::set(limit, known, run))?;
        wire::changed(&answer).ok_or_else(|| self.error("has data of another version of pcproxy"))
    }

    /// The limit of a group and the machines that share it.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    pub fn look(&mut self, group: &Name) -> Result<Site, StoreError> {
        let [limit, machines] = keys(group);
        let fields: [&[u8]; 7] = [b"HMGET", limit.as_bytes(), b"rate", b"burst", b"floors", b"generation", b"state"];
        let Value::List(kept) = self.answer(&fields)? else { return Err(self.error("gives a strange answer")) };
        let machines = self.answer(&[b"GET", machines.as_bytes()])?.bytes().unwrap_or_default();
        let state = kept.get(4).cloned().and_then(Value::bytes).unwrap_or_default();
        let limit: Vec<_> = kept.into_iter().take(4).map(Value::text).collect();
        wire::site(wire::limit_of(&limit), &state, &machines)
            .ok_or_else(|| self.error("has data of another version of pcproxy"))
    }

    /// Which run of the server it is connected to: connects if it is not.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    pub fn run_id(&mut self) -> Result<u64, StoreError> {
        self.connection().map(|(_, run)| *run)
    }

    /// The same; nothing if it is not connected.
    pub fn connected_run(&self) -> Option<u64> {
        self.connection.as_ref().map(|(_, run)| *run)
    }

    /// Runs the script on a group. The request names the run of the server that gets it: in a
    /// cluster that is not always the one that was asked first.
    fn run(&mut self, group: &Name, request: impl Fn(u64) -> Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let [limit, machines] = keys(group).map(String::into_bytes);
        self.evaluate(SCRIPT, &SHA, |run| vec![b"2".to_vec(), limit.clone(), machines.clone(), request(run)])
    }

    /// Runs a script, with what stands behind it: the number of keys, the keys, and the arguments for
    /// this run of the server.
    fn evaluate(&mut self, script: &str, sha: &str, rest: impl Fn(u64) -> Vec<Vec<u8>>) -> Result<Vec<u8>, StoreError> {
        let answer = self.at_the_right_node(|store, asking| {
            let rest = rest(store.run_id()?);
            // A restart or a failover empties the cache of scripts.
            for (how, what) in [("EVALSHA", sha), ("EVAL", script)] {
                let mut words = vec![how.as_bytes(), what.as_bytes()];
                words.extend(rest.iter().map(Vec::as_slice));
                match store.call_when(asking, &words)? {
                    Value::Refusal(why) if why.starts_with("NOSCRIPT") => {}
                    answer => return Ok(answer),
                }
            }
            Err(store.error("does not take scripts"))
        })?;
        answer.bytes().ok_or_else(|| self.error("gives a strange answer"))
    }

    /// Has `call` called, and again at the node of a cluster that the answer names, for good (MOVED), or
    /// only this once while the keys are under way to it (ASK): then `call` is told so.
    fn at_the_right_node(
        &mut self,
        call: impl Fn(&mut Store, bool) -> Result<Value, StoreError>,
    ) -> Result<Value, StoreError> {
        let mut asked: Option<(String, u16)> = None;
        for _ in 0..3 {
            let answer = match asked.take() {
                None => call(self, false)?,
                Some(node) => {
                    let home = (self.moved.replace(node), self.connection.take());
                    let answer = call(self, true);
                    (self.moved, self.connection) = home;
                    answer?
                }
            };
            let Value::Refusal(why) = &answer else { return Ok(answer) };
            if let Some(node) = self.node(why, "MOVED ") {
                (self.moved, self.connection) = (Some(node), None);
            } else if let Some(node) = self.node(why, "ASK ") {
                asked = Some(node);
            } else {
                return self.unless_refused(answer);
            }
        }
        Err(self.error("its cluster is being rearranged"))
    }

    /// The node that a refusal of this kind names.
    fn node(&self, why: &str, kind: &str) -> Option<(String, u16)> {
        let (host, port) = why.strip_prefix(kind)?.rsplit(' ').next()?.rsplit_once(':')?;
        // A node that does not know its own name has the one that it was asked by.
        let same = || if let Place::Tcp(host, _) = &self.address.place { host.clone() } else { String::new() };
        let host = if host.is_empty() { same() } else { host.to_owned() };
        Some((host, port.parse().ok()?))
    }

    /// Calls a node, which gets the keys at present if `asking`.
    fn call_when(&mut self, asking: bool, words: &[&[u8]]) -> Result<Value, StoreError> {
        if asking {
            self.call(&[b"ASKING"])?;
        }
        self.call(words)
    }

    /// Offers a plan of a group, and reports what `machine` has used of its quota. Returns what the
    /// store has.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    pub fn exchange(&mut self, group: &Name, offer: &Offer, machine: u64) -> Result<Heard, StoreError> {
        let [limit, _] = keys(group);
        let used = format!("{limit}:used:{}", offer.report.map_or(0, |report| report.begun));
        let plan = offer.plan.as_ref().map(|plan| wire::plan(offer.version, plan.as_ref())).transpose();
        let plan = plan.map_err(|_| self.error("cannot take such a plan"))?.unwrap_or_default();
        let double = |number: u64| (number as f64).to_le_bytes();
        let report = offer.report.map(|report| (double(report.used), double(report.heard)));
        let answer = self.evaluate(PLAN_SCRIPT, &PLAN_SHA, |_| {
            // A key that is not there could not be had while the keys are under way to another node.
            let second = if report.is_some() { &used } else { &limit };
            let mut rest = vec![b"2".to_vec(), limit.clone().into(), second.clone().into(), plan.clone()];
            if let Some((used, heard)) = &report {
                let kept_for = KEPT_FOR.to_string().into_bytes();
                rest.extend([machine.to_le_bytes().to_vec(), used.to_vec(), heard.to_vec(), kept_for]);
            }
            rest
        })?;
        wire::heard(&answer).ok_or_else(|| self.error("has data of another version of pcproxy"))
    }

    /// Asks a server that may not be the one that has the keys.
    fn answer(&mut self, words: &[&[u8]]) -> Result<Value, StoreError> {
        self.at_the_right_node(|store, asking| store.call_when(asking, words))
    }

    fn call(&mut self, words: &[&[u8]]) -> Result<Value, StoreError> {
        let (connection, _) = self.connection()?;
        let answer = connection.call(words, PATIENCE);
        answer.map_err(|error| self.broken(&error))
    }

    fn unless_refused(&mut self, answer: Value) -> Result<Value, StoreError> {
        if let Value::Refusal(why) = answer {
            // Another server may have become the one to ask.
            self.connection = None;
            return Err(self.error(explained(&why)));
        }
        Ok(answer)
    }

    fn connection(&mut self) -> Result<&mut (Connection, u64), StoreError> {
        let connected = match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.connect(),
        };
        if connected.is_err() {
            self.moved = None;
        }
        Ok(self.connection.insert(connected?))
    }

    fn connect(&self) -> Result<(Connection, u64), StoreError> {
        let unreachable = |error: io::Error| self.error(trouble(&error));
        let mut connection = match (&self.moved, &self.address.place) {
            (Some((host, port)), _) | (None, Place::Tcp(host, port)) => self.open(host, *port)?,
            (None, Place::Unix(path)) => Connection::unix(path).map_err(unreachable)?,
            (None, Place::Sentinels(sentinels, name)) => {
                let (host, port) = self.find(sentinels, name)?;
                self.open(&host, port)?
            }
        };
        let mut say = |words: &[&[u8]]| match connection.call(words, PATIENCE) {
            Ok(Value::Refusal(why)) => Err(self.error(explained(&why))),
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.error(trouble(&error))),
        };
        if let Some(password) = self.password()? {
            match &self.address.user {
                Some(user) => say(&[b"AUTH", user.as_bytes(), password.as_bytes()])?,
                None => say(&[b"AUTH", password.as_bytes()])?,
            };
        }
        if self.address.database > 0 {
            say(&[b"SELECT", self.address.database.to_string().as_bytes()])?;
        }
        let facts = say(&[b"INFO", b"server"])?.text().unwrap_or_default();
        let run = facts.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default();
        let run = run.get(..16).and_then(|run| u64::from_str_radix(run, 16).ok());
        let run = run.ok_or_else(|| self.error("does not say which run of the server it is (INFO server)"))?;
        Ok((connection, run))
    }

    fn open(&self, host: &str, port: u16) -> Result<Connection, StoreError> {
        if self.address.is_encrypted() {
            return self.open_encrypted(host, port);
        }
        Connection::tcp(host, port, PATIENCE).map_err(|error| self.error(trouble(&error)))
    }

    #[cfg(feature = "tls")]
    fn open_encrypted(&self, host: &str, port: u16) -> Result<Connection, StoreError> {
        Connection::tls(host, port, &self.binding, PATIENCE).map_err(|error| self.error(trouble(&error)))
    }

    #[cfg(not(feature = "tls"))]
    fn open_encrypted(&self, _host: &str, _port: u16) -> Result<Connection, StoreError> {
        Err(self.error("this pcproxy was built without TLS (the Cargo feature 'tls')"))
    }

    /// Asks sentinels where the server of this name is.
    fn find(&self, sentinels: &[(String, u16)], name: &str) -> Result<(String, u16), StoreError> {
        let mut reason = "has no sentinels".to_owned();
        for (host, port) in sentinels {
            let asked = self.open(host, *port).and_then(|mut sentinel| {
                let mut say =
                    |words: &[&[u8]]| sentinel.call(words, PATIENCE).map_err(|error| self.error(trouble(&error)));
                let question: [&[u8]; 3] = [b"SENTINEL", b"get-master-addr-by-name", name.as_bytes()];
                match (say(&question)?, self.password()?) {
                    (Value::Refusal(why), Some(password)) if why.starts_with("NOAUTH") => {
                        match say(&[b"AUTH", password.as_bytes()])? {
                            Value::Refusal(why) => Ok(Value::Refusal(why)),
                            _ => say(&question),
                        }
                    }
                    (answer, _) => Ok(answer),
                }
            });
            match asked {
                Ok(Value::List(found)) if found.len() == 2 => {
                    let mut words = found.into_iter().map(Value::text);
                    if let (Some(Some(host)), Some(Some(port))) = (words.next(), words.next())
                        && let Ok(port) = port.parse()
                    {
                        return Ok((host, port));
                    }
                }
                Ok(Value::Refusal(why)) => reason = explained(&why),
                Ok(_) => reason = format!("its sentinels know no '{name}'"),
                Err(error) => reason = error.reason,
            }
        }
        Err(self.error(reason))
    }

    fn password(&self) -> Result<Option<String>, StoreError> {
        if let Some(path) = &self.binding.password_file {
            let text = fs::read_to_string(path)
                .map_err(|error| self.error(format!("cannot read the password from {}: {error}", path.display())))?;
            return Ok(text.lines().next().map(str::to_owned));
        }
        let in_address = || env::var(STORE).ok()?.parse::<Address>().ok()?.password;
        Ok(env::var(PASSWORD).ok().filter(|password| !password.is_empty()).or_else(in_address))
    }

    fn broken(&mut self, error: &io::Error) -> StoreError {
        self.connection = None;
        self.error(trouble(error))
    }

    fn error(&self, reason: impl Into<String>) -> StoreError {
        StoreError { store: self.address.to_string(), reason: reason.into() }
    }
}

/// What a machine tells the store about the plan of a group.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Counts the changes of the plan.
    pub version: u64,
    /// The plan, or that there is none any more; nothing if the machine knows of none.
    pub plan: Option<Option<Plan>>,
    /// What the machine has used of the quota.
    pub report: Option<Report>,
}

/// What the store knows of the plan of a group.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The wall clock of the store, in milliseconds since 1970.
    pub time: i64,
    /// Bytes that all machines have used in the period that was reported on.
    pub total: u64,
    /// Counts the changes of the plan; 0 if there has never been one.
    pub version: u64,
    /// The plan, if there is one.
    pub plan: Option<Plan>,
}

/// The keys of a group. What is in braces decides which node of a cluster has them: the groups of
/// a tree are all on one.
fn keys(group: &Name) -> [String; 2] {
    let path = group.to_string();
    let root = path.split('/').next().unwrap_or_default();
    let limit = format!("pcproxy:1:{{{root}}}:{path}");
    let machines = format!("{limit}:machines");
    [limit, machines]
}

/// Why a connection failed, in words.
fn trouble(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "cannot be found: is the name right?".to_owned(),
        io::ErrorKind::ConnectionRefused => "refuses connections: does it run there?".to_owned(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "does not answer".to_owned(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "has closed the connection".to_owned()
        }
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => error.to_string(),
        _ => format!("cannot be reached: {error}"),
    }
}

/// What a refusal of the server means.
fn explained(refusal: &str) -> String {
    let code = refusal.split_whitespace().next().unwrap_or_default();
    match code {
        "WRONGPASS" => "wrong user or password".to_owned(),
        "NOAUTH" => format!("asks for a password: use --password-file, or set {PASSWORD}"),
        "NOPERM" => format!("denied: {}; docs/cluster.md lists what the user needs", rest_of(refusal)),
        "OOM" => "is full (maxmemory)".to_owned(),
        "READONLY" => "is a replica, which takes no writes".to_owned(),
        "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY" | "NOREPLICAS" => {
            format!("is not ready: {}", rest_of(refusal))
        }
        _ if refusal.contains("without any password") => "has no password, and one was given".to_owned(),
        _ => format!("refuses: {refusal}"),
    }
}

/// A refusal without its code, in one line.
fn rest_of(refusal: &str) -> &str {
    refusal.split_once(' ').map_or(refusal, |(_, rest)| rest).trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_were_but_for_the_password() {
        for (text, shown) in [
            ("valkey://host", "valkey://host"),
            ("redis://host:6379/0", "redis://host"),
            ("redis://me:secret@host:7000/2", "redis://me@host:7000/2"),
            ("rediss://:secret@[::1]:6380", "rediss://[::1]:6380"),
            ("valkey+unix:///run/valkey.sock", "valkey+unix:///run/valkey.sock"),
            ("valkey+sentinel://a,b:7/main", "valkey+sentinel://a,b:7/main"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert!(!format!("{address:?}").contains("secret"));
        }
        let address: Address = "redis://me:p%40ss%2f@host".parse().unwrap();
        assert_eq!(address.password.as_deref(), Some("p@ss/"));
    }

    #[test]
    fn refuses_what_is_no_address() {
        for text in [
            "",
            "host",
            "http://host",
            "redis://",
            "redis://host:x",
            "redis://host/x",
            "valkey+unix://",
            "redis://h\no",
        ] {
            assert_eq!(text.parse::<Address>(), Err(AddressError), "{text:?}");
        }
    }

    #[test]
    fn the_groups_of_a_tree_are_on_one_node_of_a_cluster() {
        let [limit, machines] = keys(&"site/backup".parse().unwrap());
        assert_eq!(limit, "pcproxy:1:{site}:site/backup");
        assert_eq!(machines, "pcproxy:1:{site}:site/backup:machines");
    }
}
