//! Temporary bring-up stub (single mutex); replaced by the heart.
#![allow(missing_docs, dead_code)]
mod limits;
use crate::primitives::{Arc, Mutex, Tick};
use crate::timeouts::TimeoutHandle;
pub use limits::*;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
#[derive(Debug)]
pub struct Budget;
impl Budget {
    pub fn new(_: impl Into<String>, _: usize) -> Arc<Self> {
        Arc::new(Self)
    }
    pub fn set_limit(&self, _: usize) {}
}
struct Slot<C> {
    val: Mutex<(u8, Option<C>, Option<Waker>)>,
}
struct St<C> {
    idle: Vec<C>,
    waiters: VecDeque<std::sync::Arc<Slot<C>>>,
    slots: usize,
    size: usize,
}
pub struct Pool<C> {
    st: Mutex<St<C>>,
}
impl<C> std::fmt::Debug for Pool<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pool")
    }
}
#[derive(Debug, Default)]
pub struct PoolSnapshot {
    pub idle: usize,
    pub active: usize,
    pub connecting: usize,
    pub waiting: usize,
    pub oldest_waiter: Option<Tick>,
}
pub enum Checkout<C>
where
    C: Send + 'static,
{
    Ready(Lease<C>),
    Connect(Permit<C>),
    Wait(Ticket<C>),
    Refused(Refusal),
}
pub enum Outcome<C>
where
    C: Send + 'static,
{
    Handed(Lease<C>),
    Connect(Permit<C>),
    Expired { waited: Duration },
    Refused(Refusal),
}
pub struct Lease<C: Send + 'static> {
    pool: Arc<Pool<C>>,
    c: Option<C>,
}
impl<C: Send> std::fmt::Debug for Lease<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lease")
    }
}
pub struct Permit<C: Send + 'static> {
    pool: Option<Arc<Pool<C>>>,
}
impl<C: Send> std::fmt::Debug for Permit<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Permit")
    }
}
pub struct Ticket<C: Send + 'static> {
    pool: Arc<Pool<C>>,
    slot: std::sync::Arc<Slot<C>>,
}
impl<C: Send + 'static> Pool<C> {
    pub fn new(_s: usize, l: PoolLimits, _b: Vec<Arc<Budget>>, _t: TimeoutHandle) -> Arc<Self> {
        Arc::new(Self {
            st: Mutex::new(St {
                idle: vec![],
                waiters: VecDeque::new(),
                slots: 0,
                size: l.size,
            }),
        })
    }
    pub fn checkout(self: &Arc<Self>, _h: Hint, _n: Tick) -> Checkout<C> {
        let mut st = self.st.lock();
        if let Some(c) = st.idle.pop() {
            return Checkout::Ready(Lease {
                pool: self.clone(),
                c: Some(c),
            });
        }
        if st.size == 0 || st.slots < st.size {
            st.slots += 1;
            return Checkout::Connect(Permit {
                pool: Some(self.clone()),
            });
        }
        let slot = std::sync::Arc::new(Slot {
            val: Mutex::new((0, None, None)),
        });
        st.waiters.push_back(slot.clone());
        Checkout::Wait(Ticket {
            pool: self.clone(),
            slot,
        })
    }
    fn give(self: &Arc<Self>, c: C) {
        let w = {
            let mut st = self.st.lock();
            loop {
                match st.waiters.pop_front() {
                    None => {
                        st.idle.push(c);
                        break None;
                    }
                    Some(s) => {
                        let mut v = s.val.lock();
                        if v.0 == 0 {
                            v.0 = 1;
                            v.1 = Some(c);
                            break v.2.take();
                        }
                    }
                }
            }
        };
        if let Some(w) = w {
            w.wake();
        }
    }
    fn free(self: &Arc<Self>) {
        let w = {
            let mut st = self.st.lock();
            loop {
                match st.waiters.pop_front() {
                    None => {
                        st.slots -= 1;
                        break None;
                    }
                    Some(s) => {
                        let mut v = s.val.lock();
                        if v.0 == 0 {
                            v.0 = 2;
                            break v.2.take();
                        }
                    }
                }
            }
        };
        if let Some(w) = w {
            w.wake();
        }
    }
    pub fn take_idle(
        self: &Arc<Self>,
        _s: usize,
        mut p: impl FnMut(&C, Tick) -> bool,
    ) -> Vec<Lease<C>> {
        let mut st = self.st.lock();
        let (a, b): (Vec<C>, Vec<C>) = std::mem::take(&mut st.idle)
            .into_iter()
            .partition(|c| p(c, Tick::ZERO));
        st.idle = b;
        a.into_iter()
            .map(|c| Lease {
                pool: self.clone(),
                c: Some(c),
            })
            .collect()
    }
    pub fn close(&self) {}
    pub fn refuse_waiters(&self) {}
    pub fn bump_generation(&self) {}
    pub fn set_limits(self: &Arc<Self>, l: PoolLimits, _: Tick) {
        self.st.lock().size = l.size;
    }
    pub fn snapshot(&self) -> PoolSnapshot {
        let st = self.st.lock();
        PoolSnapshot {
            idle: st.idle.len(),
            active: st.slots - st.idle.len(),
            waiting: st.waiters.len(),
            ..Default::default()
        }
    }
}
impl<C: Send> Lease<C> {
    pub fn check_in(mut self, _h: Hint, _n: Tick) {
        let c = self.c.take().unwrap();
        self.pool.give(c);
    }
    pub fn discard(self) {}
}
impl<C: Send> Drop for Lease<C> {
    fn drop(&mut self) {
        if let Some(c) = self.c.take() {
            drop(c);
            self.pool.free();
        }
    }
}
impl<C: Send> std::ops::Deref for Lease<C> {
    type Target = C;
    fn deref(&self) -> &C {
        self.c.as_ref().unwrap()
    }
}
impl<C: Send> std::ops::DerefMut for Lease<C> {
    fn deref_mut(&mut self) -> &mut C {
        self.c.as_mut().unwrap()
    }
}
impl<C: Send> Permit<C> {
    pub fn fulfil(mut self, c: C) -> Lease<C> {
        Lease {
            pool: self.pool.take().unwrap(),
            c: Some(c),
        }
    }
    pub fn fail(self, _r: Tick) {}
    pub fn requeue(self, _r: Tick, _h: Hint, _n: Tick) -> Ticket<C> {
        let pool = self.pool.clone().unwrap();
        let slot = std::sync::Arc::new(Slot {
            val: Mutex::new((0, None, None)),
        });
        pool.st.lock().waiters.push_back(slot.clone());
        Ticket { pool, slot }
    }
}
impl<C: Send> Drop for Permit<C> {
    fn drop(&mut self) {
        if let Some(p) = self.pool.take() {
            p.free();
        }
    }
}
impl<C: Send> Ticket<C> {
    pub fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Outcome<C>> {
        let mut v = self.slot.val.lock();
        match v.0 {
            1 => {
                v.0 = 3;
                let c = v.1.take();
                drop(v);
                Poll::Ready(Outcome::Handed(Lease {
                    pool: self.pool.clone(),
                    c,
                }))
            }
            2 => {
                v.0 = 3;
                Poll::Ready(Outcome::Connect(Permit {
                    pool: Some(self.pool.clone()),
                }))
            }
            _ => {
                v.2 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
impl<C: Send> Drop for Ticket<C> {
    fn drop(&mut self) {
        let mut v = self.slot.val.lock();
        let s = v.0;
        v.0 = 3;
        let c = v.1.take();
        drop(v);
        if s == 1 {
            self.pool.give(c.unwrap());
        }
        if s == 2 {
            self.pool.free();
        }
    }
}
