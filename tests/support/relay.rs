//! A network that can be broken: a relay between keepers and a store.

#![allow(dead_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What becomes of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// They pass.
    Passes,
    /// They pass after so many milliseconds.
    Delays(u64),
    /// Those to the store are lost, and so are the answers.
    SwallowsAll,
    /// The store hears all, and nobody hears the store.
    SwallowsReplies,
    /// Connections are closed at once.
    Resets,
}

/// A relay that ends with the test.
pub struct Relay {
    pub port: u16,
    network: Arc<Mutex<Network>>,
    bytes: Arc<AtomicU64>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    to: Arc<AtomicU64>,
}

impl Relay {
    /// A relay to this port.
    pub fn to(port: u16) -> Relay {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let relay = Relay {
            port: listener.local_addr().unwrap().port(),
            network: Arc::new(Mutex::new(Network::Passes)),
            bytes: Arc::default(),
            open: Arc::default(),
            to: Arc::new(AtomicU64::new(port.into())),
        };
        let (network, bytes, open, to) =
            (relay.network.clone(), relay.bytes.clone(), relay.open.clone(), relay.to.clone());
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if *network.lock().unwrap() == Network::Resets {
                    continue;
                }
                let port = to.load(Ordering::Relaxed) as u16;
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                open.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                for (from, to, is_reply) in
                    [(near.try_clone().unwrap(), far.try_clone().unwrap(), false), (far, near, true)]
                {
                    let (network, bytes) = (network.clone(), bytes.clone());
                    thread::spawn(move || pass(from, to, is_reply, &network, &bytes));
                }
            }
        });
        relay
    }

    pub fn url(&self) -> String {
        format!("valkey://127.0.0.1:{}", self.port)
    }

    /// New connections lead to another port.
    pub fn lead_to(&self, port: u16) {
        self.to.store(port.into(), Ordering::Relaxed);
    }

    pub fn set(&self, network: Network) {
        *self.network.lock().unwrap() = network;
        if network == Network::Resets {
            for stream in self.open.lock().unwrap().drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// Bytes that passed in both directions.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, is_reply: bool, network: &Mutex<Network>, bytes: &AtomicU64) {
    let mut piece = [0; 16 * 1024];
    loop {
        match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => {
                let now = *network.lock().unwrap();
                match now {
                    Network::SwallowsAll | Network::Resets => continue,
                    Network::SwallowsReplies if is_reply => continue,
                    Network::Delays(millis) => thread::sleep(Duration::from_millis(millis)),
                    _ => {}
                }
                bytes.fetch_add(read as u64, Ordering::Relaxed);
                if to.write_all(&piece[..read]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
