//! Temporary bring-up stub; replaced by the heart's timeout thread.
#![allow(missing_docs)]
use crate::primitives::Tick;
#[derive(Debug, Clone)]
pub struct TimeoutHandle;
#[derive(Debug)]
pub struct TimeoutThread;
impl TimeoutThread {
    pub fn start(_: fn() -> Tick) -> std::io::Result<(Self, TimeoutHandle)> {
        Ok((Self, TimeoutHandle))
    }
    pub fn stop_and_join(self) {}
}
