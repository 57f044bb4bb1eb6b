//! Who wants to take over: one at a time, from its request until it serves or has failed.

use std::sync::Arc;

use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Channel;

/// An instance that has asked.
pub struct Candidate {
    pub(super) channel: Channel,
    pub(super) place: OwnedSemaphorePermit,
}

/// Where those who ask are sent.
#[derive(Clone, Debug)]
pub struct Candidates {
    sender: mpsc::Sender<Candidate>,
    place: Arc<Semaphore>,
}

/// Why somebody cannot take over now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// Somebody else does.
    #[error("another takeover is under way")]
    UnderWay,
    /// This instance stops, or has a successor already.
    #[error("it is about to end; start again when it has")]
    Over,
}

/// A place that is kept for somebody who asks.
pub struct Reserved {
    permit: OwnedPermit<Candidate>,
    place: OwnedSemaphorePermit,
}

/// Both ends; when the receiver is gone, nobody can take over any more.
pub fn candidates() -> (Candidates, mpsc::Receiver<Candidate>) {
    let (sender, receiver) = mpsc::channel(1);
    let place = Arc::new(Semaphore::new(1));
    (Candidates { sender, place }, receiver)
}

impl Candidates {
    /// Keeps the place.
    ///
    /// # Errors
    /// [`NoPlace`]
    pub fn reserve(&self) -> Result<Reserved, NoPlace> {
        let place = Arc::clone(&self.place).try_acquire_owned();
        let place = place.map_err(|_| NoPlace::UnderWay)?;
        let permit = self.sender.clone().try_reserve_owned();
        let permit = permit.map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NoPlace::UnderWay,
            mpsc::error::TrySendError::Closed(_) => NoPlace::Over,
        })?;
        Ok(Reserved { permit, place })
    }
}

impl Reserved {
    /// Has whoever asked through this channel considered.
    pub fn take(self, channel: Channel) {
        let place = self.place;
        self.permit.send(Candidate { channel, place });
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn there_is_one_place_until_it_is_given_back_or_nobody_listens() {
        let (candidates, mut receiver) = candidates();
        let reserved = candidates.reserve().unwrap();
        assert_eq!(candidates.reserve().err(), Some(NoPlace::UnderWay));
        let (stream, _other) = UnixStream::pair().unwrap();
        reserved.take(Channel::new(stream, b""));
        let candidate = receiver.recv().await.unwrap();
        assert_eq!(candidates.reserve().err(), Some(NoPlace::UnderWay));
        drop(candidate);
        drop(candidates.reserve().unwrap());
        drop(receiver);
        assert_eq!(candidates.reserve().err(), Some(NoPlace::Over));
    }
}
