//! Whom clients of unix sockets take us for: the user who listens is what a client sees of its server (`SO_PEERCRED`,
//! libpq's `requirepeer`).

use std::io;

use rustix::thread::{Uid, set_thread_res_uid};

use crate::fences;

/// The user as whom we listen; without one it is our own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guise(Option<u32>);

impl Guise {
    /// Listens as this user.
    pub fn of(user: Option<u32>) -> Self {
        Self(user)
    }

    /// Whether a server that runs as `user` is what clients were told it is.
    ///
    /// # Errors
    /// That it is not.
    pub fn check(self, user: u32) -> io::Result<()> {
        match self.0 {
            Some(told) if told != user => Err(io::Error::other(format!(
                "its server runs as user {user}, not as user {told}, whom pgusher shows its clients (unix_socket_user)"
            ))),
            _ => Ok(()),
        }
    }

    /// Gives the calling thread the user, for good.
    ///
    /// # Errors
    /// The operating system's reason.
    pub(in crate::intercept) fn put_on(self) -> io::Result<()> {
        match self.0 {
            Some(user) => {
                set_thread_res_uid(None, Uid::from_raw(user), None)?;
                // With the user the kernel forgets it, for the whole process.
                fences::stay_private()
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_another_user_is_none_where_clients_were_told_one() {
        assert!(Guise::of(Some(101)).check(101).is_ok());
        assert!(Guise::of(Some(101)).check(0).is_err());
        assert!(Guise::default().check(101).is_ok());
    }
}
