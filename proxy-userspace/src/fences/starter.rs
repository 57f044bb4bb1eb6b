//! A thread that keeps every privilege while pgusher starts, and ends when that is done.

use std::io;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use tokio::sync::oneshot;

const THREAD_NAME: &str = "starter";

type Errand = Box<dyn FnOnce() + Send>;

/// The thread; it ends when this is dropped. Must be started before the calling thread gives anything up.
pub struct Starter {
    errands: Option<mpsc::Sender<Errand>>,
    thread: Option<JoinHandle<()>>,
}

impl Starter {
    /// Starts it with everything the calling thread may do.
    ///
    /// # Errors
    /// The operating system's reason.
    pub fn start() -> io::Result<Self> {
        let (errands, told) = mpsc::channel::<Errand>();
        let thread = Builder::new()
            .name(THREAD_NAME.to_owned())
            .spawn(move || told.into_iter().for_each(|errand| errand()))?;
        Ok(Self {
            errands: Some(errands),
            thread: Some(thread),
        })
    }

    /// Has it do something. What is started from within has every privilege too: no task, no thread that stays.
    ///
    /// # Errors
    /// When the thread has ended, because an earlier errand panicked or this one did.
    ///
    /// # Cancel safety
    /// The errand is done to its end, and its result dropped.
    pub async fn run<T: Send + 'static>(
        &self,
        errand: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let ended = || io::Error::other("the thread that starts pgusher ended before its time");
        let (answer, answered) = oneshot::channel();
        let errand = move || drop(answer.send(errand()));
        let errands = self.errands.as_ref().ok_or_else(ended)?;
        errands.send(Box::new(errand)).map_err(|_| ended())?;
        answered.await.map_err(|_| ended())
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        drop(self.errands.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has ended as well.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn errands_are_done_one_after_another_on_one_thread_that_ends_with_its_owner() {
        let starter = Starter::start().unwrap();
        let thread = || std::thread::current().id();
        let first = starter.run(thread).await.unwrap();
        assert_eq!(starter.run(thread).await.unwrap(), first);
        assert_ne!(thread(), first);
        let number = starter.run(rustix::thread::gettid).await.unwrap();
        drop(starter);
        let path = format!("/proc/self/task/{}", number.as_raw_nonzero());
        assert!(!std::path::Path::new(&path).exists());
    }

    #[tokio::test]
    async fn an_errand_that_panics_is_an_error_and_so_is_every_later_one() {
        let starter = Starter::start().unwrap();
        assert!(starter.run(|| panic!("on purpose")).await.is_err());
        assert!(starter.run(|| ()).await.is_err());
    }
}
