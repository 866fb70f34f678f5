//! Host names to addresses: asked of the system off the workers, remembered for a while, and never more
//! than once at a time for a name.
//!
//! The system's resolver can take as long as it likes and cannot be interrupted. So a look-up belongs to
//! nobody: whoever waits may give up, the answer is kept when it comes, and until then nobody asks again.
//! Invariant: a name whose look-up hangs costs one thread, and no connection waits for it that has an
//! answer from before.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::primitives::{Tick, clock};
use crate::tasks;

/// How long answers hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameTtl {
    /// `dns_max_ttl`: addresses.
    pub found: Duration,
    /// `dns_nxdomain_ttl`: that there are none.
    pub missing: Duration,
}

impl Default for NameTtl {
    fn default() -> Self {
        Self { found: Duration::from_secs(15), missing: Duration::from_secs(15) }
    }
}

/// A name that nobody has asked for so long is not asked anew of one's own accord, and then forgotten.
const UNUSED_AFTER: Duration = Duration::from_secs(600);

/// What asks the system.
type Ask = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// All names that are in use.
pub struct Names {
    /// Held for a moment.
    names: Mutex<HashMap<String, Name>>,
    /// Carries no data: answers are in `names`.
    has_answer: Notify,
    ask: Arc<Ask>,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Names")
    }
}

#[derive(Debug, Default)]
struct Name {
    /// The last good answer. It outlives its time as long as no better one comes.
    addresses: Option<Arc<[IpAddr]>>,
    /// Until when there is no need to ask.
    holds_until: Tick,
    /// What the last look-up ended with, if badly.
    error: Option<(io::ErrorKind, String)>,
    is_being_asked: bool,
    used_at: Tick,
    /// Counts uses, so that they go round the addresses.
    turn: usize,
    /// The addresses are others than they were, and nobody was told.
    has_changed: bool,
}

/// What of a name is known now.
enum Known {
    Answer(io::Result<Vec<IpAddr>>),
    /// The caller is to ask the system, and has an answer from before if there is one.
    Ask(Option<Vec<IpAddr>>),
    /// Somebody does.
    Wait,
}

impl Default for Names {
    fn default() -> Self {
        Self::asking(|host| Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
    }
}

impl Names {
    fn asking(ask: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self { names: Mutex::default(), has_answer: Notify::new(), ask: Arc::new(ask) }
    }

    /// The addresses of a host, in the order in which they are to be tried: each use begins with another
    /// one. A literal address is itself.
    ///
    /// Cancel-safe: a look-up that was begun goes on for whoever comes next.
    ///
    /// # Errors
    /// The system's, if there is no answer from before either.
    pub async fn resolve(self: &Arc<Self>, host: &str, ttl: NameTtl) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        loop {
            // Registered before the look: an answer between the two is not missed.
            let mut answered = std::pin::pin!(self.has_answer.notified());
            answered.as_mut().enable();
            match self.known(host, clock::now()) {
                Known::Answer(answer) => return answer,
                Known::Ask(before) => {
                    self.ask_system(host, ttl);
                    // The answer from before serves while a new one is on its way.
                    if let Some(addresses) = before {
                        return Ok(addresses);
                    }
                }
                Known::Wait => {}
            }
            answered.await;
        }
    }

    fn known(&self, host: &str, now: Tick) -> Known {
        let mut names = self.names.lock();
        let name = names.entry(host.to_owned()).or_default();
        name.used_at = now;
        if now < name.holds_until || (name.is_being_asked && name.addresses.is_some()) {
            return Known::Answer(match (&name.addresses, &name.error) {
                (Some(_), _) => Ok(name.next()),
                (None, Some((kind, text))) => Err(io::Error::new(*kind, text.clone())),
                (None, None) => Err(io::ErrorKind::NotFound.into()),
            });
        }
        if name.is_being_asked {
            return Known::Wait;
        }
        name.is_being_asked = true;
        let before = name.addresses.is_some().then(|| name.next());
        Known::Ask(before)
    }

    /// On a thread of its own, which takes as long as it takes.
    fn ask_system(self: &Arc<Self>, host: &str, ttl: NameTtl) {
        let (names, asked) = (self.clone(), host.to_owned());
        let started = tasks::uninterruptible("resolver", move || {
            let answer = (names.ask)(&asked);
            names.learn(&asked, answer, ttl, clock::now());
        });
        if let Err(error) = started {
            self.learn(host, Err(error), ttl, clock::now());
        }
    }

    fn learn(&self, host: &str, answer: io::Result<Vec<IpAddr>>, ttl: NameTtl, now: Tick) {
        {
            let mut names = self.names.lock();
            let name = names.entry(host.to_owned()).or_default();
            name.is_being_asked = false;
            match answer {
                Ok(addresses) if !addresses.is_empty() => {
                    let before = name.addresses.replace(unique(&addresses));
                    name.has_changed |= before.is_some_and(|before| {
                        before.iter().any(|address| !addresses.contains(address))
                    });
                    name.holds_until = now.after(ttl.found);
                    if name.error.take().is_some() {
                        tracing::info!(host, "the name can be resolved again");
                    }
                }
                failed => {
                    let error = failed.err().unwrap_or_else(|| io::ErrorKind::NotFound.into());
                    name.holds_until = now.after(ttl.missing);
                    let (kind, text) = (error.kind(), error.to_string());
                    // Once, not each time that it goes on.
                    if name.error.replace((kind, text)).is_none() {
                        tracing::warn!(
                            host,
                            known = name.addresses.is_some(),
                            "the name cannot be resolved: {error}"
                        );
                    }
                }
            }
        }
        self.has_answer.notify_waiters();
    }

    /// A name is in use: connections were made by it that are still there.
    pub fn touch(&self, host: &str, now: Tick) {
        if let Some(name) = self.names.lock().get_mut(host) {
            name.used_at = now;
        }
    }

    /// Asks anew for names in use whose answers are old, and gives those of which the addresses have
    /// changed, each once. To be called now and then.
    #[must_use]
    pub fn look(self: &Arc<Self>, ttl: NameTtl) -> Vec<(String, Arc<[IpAddr]>)> {
        let now = clock::now();
        let (mut due, mut changed) = (Vec::new(), Vec::new());
        self.names.lock().retain(|host, name| {
            let is_unused = now.since(name.used_at) > UNUSED_AFTER;
            if !is_unused && !name.is_being_asked && now >= name.holds_until {
                name.is_being_asked = true;
                due.push(host.clone());
            }
            if std::mem::take(&mut name.has_changed)
                && let Some(addresses) = &name.addresses
            {
                changed.push((host.clone(), addresses.clone()));
            }
            !is_unused || name.is_being_asked
        });
        for host in due {
            self.ask_system(&host, ttl);
        }
        changed
    }
}

impl Name {
    /// The addresses, beginning with the one whose turn it is.
    fn next(&mut self) -> Vec<IpAddr> {
        let mut addresses = self.addresses.as_deref().unwrap_or_default().to_vec();
        if !addresses.is_empty() {
            let first = self.turn % addresses.len();
            addresses.rotate_left(first);
            self.turn = self.turn.wrapping_add(1);
        }
        addresses
    }
}

fn unique(addresses: &[IpAddr]) -> Arc<[IpAddr]> {
    let mut unique = Vec::with_capacity(addresses.len());
    for address in addresses {
        if !unique.contains(address) {
            unique.push(*address);
        }
    }
    // In an order of their own: resolvers turn them round by themselves, and that is no change.
    unique.sort_unstable();
    unique.into()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const TTL: NameTtl =
        NameTtl { found: Duration::from_secs(3600), missing: Duration::from_secs(3600) };
    const NONE: NameTtl = NameTtl { found: Duration::ZERO, missing: Duration::ZERO };

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    /// Names whose look-ups take what is sent, in turn, and count.
    fn scripted() -> (Arc<Names>, mpsc::Sender<io::Result<Vec<IpAddr>>>) {
        let (send, receive) = mpsc::channel();
        let receive = Mutex::new(receive);
        let ask = move |_: &str| receive.lock().recv().unwrap_or_else(|_| Ok(Vec::new()));
        (Arc::new(Names::asking(ask)), send)
    }

    #[test]
    fn uses_go_round_and_an_address_is_itself() {
        let (names, send) = scripted();
        send.send(Ok(addresses(&["10.0.0.2", "10.0.0.1", "10.0.0.1"]))).unwrap();
        runtime().block_on(async {
            let mut firsts = Vec::new();
            for _ in 0..4 {
                firsts.push(names.resolve("db", TTL).await.unwrap()[0]);
            }
            assert_eq!(firsts, addresses(&["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.2"]));
            assert_eq!(names.resolve("::1", TTL).await.unwrap(), addresses(&["::1"]));
        });
    }

    #[test]
    fn many_wait_for_one_look_up_and_one_who_gives_up_does_not_end_it() {
        let (names, send) = scripted();
        runtime().block_on(async {
            let hurried = tokio::time::timeout(Duration::ZERO, names.resolve("db", TTL)).await;
            assert!(hurried.is_err());
            let all = async {
                tokio::join!(
                    names.resolve("db", TTL),
                    names.resolve("db", TTL),
                    names.resolve("db", TTL)
                )
            };
            // One answer is enough for all.
            let send = async { send.send(Ok(addresses(&["10.0.0.1"]))).unwrap() };
            let ((a, b, c), ()) = tokio::join!(all, send);
            assert!(a.is_ok() && b.is_ok() && c.is_ok());
        });
    }

    #[test]
    fn an_old_answer_serves_while_a_new_one_hangs_or_fails() {
        let (names, send) = scripted();
        send.send(Ok(addresses(&["10.0.0.1"]))).unwrap();
        runtime().block_on(async {
            assert!(names.resolve("db", NONE).await.is_ok());
            // It has run out; the next look-up hangs.
            for _ in 0..3 {
                assert_eq!(names.resolve("db", NONE).await.unwrap(), addresses(&["10.0.0.1"]));
            }
            send.send(Err(io::ErrorKind::TimedOut.into())).unwrap();
            while names.names.lock()["db"].error.is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(names.resolve("db", NONE).await.unwrap(), addresses(&["10.0.0.1"]));
            drop(send);
        });
    }

    #[test]
    fn a_missing_name_is_missing_for_a_while() {
        let (names, send) = scripted();
        send.send(Err(io::Error::new(io::ErrorKind::NotFound, "no such host"))).unwrap();
        runtime().block_on(async {
            for _ in 0..3 {
                let error = names.resolve("db", TTL).await.unwrap_err();
                assert_eq!(error.to_string(), "no such host");
            }
        });
    }

    #[test]
    fn a_change_is_told_once_and_turning_round_is_none() {
        let (names, _send) = scripted();
        let learn = |texts: &[&str]| names.learn("db", Ok(addresses(texts)), TTL, clock::now());
        runtime().block_on(async {
            names.names.lock().entry("db".to_owned()).or_default().used_at = clock::now();
            learn(&["10.0.0.1", "10.0.0.2"]);
            learn(&["10.0.0.2", "10.0.0.1"]);
            learn(&["10.0.0.2", "10.0.0.1", "10.0.0.3"]);
            assert!(names.look(TTL).is_empty());
            learn(&["10.0.0.2", "10.0.0.3"]);
            let changed = names.look(TTL);
            assert_eq!(changed.len(), 1);
            assert_eq!(changed[0].1.to_vec(), addresses(&["10.0.0.2", "10.0.0.3"]));
            assert!(names.look(TTL).is_empty());
        });
    }
}
