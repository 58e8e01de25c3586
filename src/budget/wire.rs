//! How requests, answers and the data of a store look as bytes. `site.lua` packs and unpacks the
//! same: little-endian, without gaps.

use super::plan::Plan;
use super::site::{Granted, LONGEST_NAME, Machine, Reply, Request, Site, SiteLimit};
use super::valkey::Heard;

/// Bytes in the record of a machine.
const MACHINE: usize = 8 + LONGEST_NAME + 4 + 4 + 8 * 8;

/// A request, as the script takes it.
pub fn request(request: &Request) -> Vec<u8> {
    let mut bytes = vec![if request.leaves { b'l' } else { b'r' }];
    bytes.extend_from_slice(&request.machine.to_le_bytes());
    bytes.extend_from_slice(&request.order.0.to_le_bytes());
    bytes.extend_from_slice(&request.order.1.to_le_bytes());
    for number in [request.held, request.floor, request.want] {
        double(&mut bytes, number);
    }
    bytes.extend_from_slice(&request.weight.to_le_bytes());
    double(&mut bytes, request.guaranteed);
    double(&mut bytes, request.moved);
    bytes.extend_from_slice(&request.generation.to_le_bytes());
    double(&mut bytes, request.life);
    double(&mut bytes, request.answer);
    bytes.extend_from_slice(&request.run.to_le_bytes());
    if let Some(words) = &request.introduction {
        limit(&mut bytes, words.limit);
        let mut name = words.name.as_bytes()[..words.name.len().min(LONGEST_NAME)].to_vec();
        name.resize(LONGEST_NAME, 0);
        bytes.extend_from_slice(&name);
    }
    bytes
}

/// A change of the limit, as the script takes it.
pub fn set(to: SiteLimit, known: u32, run: u64) -> Vec<u8> {
    let mut bytes = vec![b's'];
    bytes.extend_from_slice(&known.to_le_bytes());
    limit(&mut bytes, to);
    bytes.extend_from_slice(&run.to_le_bytes());
    bytes
}

/// A version of a plan, as the store keeps it.
pub fn plan(version: u64, plan: Option<&Plan>) -> postcard::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    double(&mut bytes, version);
    postcard::to_extend(&plan, bytes)
}

/// What the script of plans answers; nothing if it is not that.
pub fn heard(bytes: &[u8]) -> Option<Heard> {
    let mut rest = Bytes(bytes);
    let (time, total) = (rest.number()?, rest.number()?);
    let (version, plan) =
        if rest.0.is_empty() { (0, None) } else { (rest.number()?, postcard::from_bytes(rest.0).ok()?) };
    Some(Heard { time: time as i64, total, version, plan })
}

/// What the script answers to a request of a machine that knows this limit; nothing if it is not
/// that.
pub fn reply(bytes: &[u8], request: &Request, known: SiteLimit) -> Option<Reply> {
    let mut rest = Bytes(bytes);
    match rest.take::<1>()? {
        [b'i'] => Some(Reply::Introduce),
        [b'r'] => Some(Reply::Refused(rest.small()?)),
        [b'g'] => {
            let [share, floor, entitled, answer] = [rest.number()?, rest.number()?, rest.number()?, rest.number()?];
            // A life and a limit that the machine knows are not repeated.
            let known = (request.life, known);
            let (life, limit) = if rest.0.is_empty() { known } else { (rest.number()?, rest.limit()?) };
            Some(Reply::Granted(Granted { share, floor, entitled, life, answer, limit }))
        }
        _ => None,
    }
}

/// What the script answers to a change of the limit.
pub fn changed(bytes: &[u8]) -> Option<SiteLimit> {
    Bytes(bytes).limit()
}

/// The limit as the fields of the hash say it: rate, burst, floors, generation.
pub fn limit_of(fields: &[Option<String>]) -> SiteLimit {
    let number = |index: usize| fields.get(index).and_then(|field| field.as_ref()?.parse::<f64>().ok()).unwrap_or(0.0);
    SiteLimit {
        rate: number(0) as u64,
        burst: number(1) as u64,
        floors: number(2) as u32,
        generation: number(3) as u32,
    }
}

/// What a store has of a group; nothing if it is not from this version.
pub fn site(limit: SiteLimit, state: &[u8], machines: &[u8]) -> Option<Site> {
    if state.is_empty() {
        return Some(Site { limit, ..Site::default() });
    }
    let mut rest = Bytes(state);
    let mut site = Site {
        limit,
        life: rest.double()?,
        answer: rest.double()?,
        clock: rest.double()?,
        wall: rest.double()?,
        learns_until: rest.double()?,
        floors_until: rest.double()?,
        unreported: rest.double()?,
        learned: rest.double()? != 0.0,
        ..Site::default()
    };
    let count = rest.small()? as usize;
    site.run = u64::from_le_bytes(rest.take()?);
    for record in machines.chunks(MACHINE) {
        let mut rest = Bytes(record);
        let id = u64::from_le_bytes(rest.take()?);
        let name: [u8; LONGEST_NAME] = rest.take()?;
        site.machines.push(Machine {
            id,
            name: String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned(),
            order: (rest.small()?, rest.small()?),
            charge: rest.double()?,
            until: rest.double()?,
            floor: rest.double()?,
            floor_until: rest.double()?,
            want: rest.double()?,
            weight: rest.double()?,
            guaranteed: rest.double()?,
            moved: rest.double()?,
        });
    }
    site.lost = count != site.machines.len();
    Some(site)
}

fn double(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend_from_slice(&(number as f64).to_le_bytes());
}

fn limit(bytes: &mut Vec<u8>, limit: SiteLimit) {
    double(bytes, limit.rate);
    double(bytes, limit.burst);
    bytes.extend_from_slice(&limit.floors.to_le_bytes());
}

/// Bytes that are read from the front.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn double(&mut self) -> Option<f64> {
        self.take().map(f64::from_le_bytes)
    }

    fn number(&mut self) -> Option<u64> {
        self.double().map(|number| number as u64)
    }

    fn small(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn limit(&mut self) -> Option<SiteLimit> {
        Some(SiteLimit {
            rate: self.number()?,
            burst: self.number()?,
            floors: self.small()?,
            generation: self.small()?,
        })
    }
}
