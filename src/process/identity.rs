//! Whose process this is: root binds the sockets and becomes somebody else, or is refused.
//!
//! Names are looked up as the system does it, LDAP and its like included. Invariant: after
//! [`Identity::assume`] there is no way back to root, which is tried and not only hoped for. libc
//! changes all threads, but there should be none yet: what they opened would be root's.

use std::ffi::CString;

use nix::errno::Errno;
use nix::unistd::{
    Gid, Group, Uid, User, geteuid, getgid, getuid, initgroups, setgid, setgroups, setuid,
};

/// Who the process is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Who it is already.
    Own {
        /// The name configured, if it is not the one kept: only root can become somebody else.
        ignored: Option<String>,
    },
    /// Root becomes this user.
    Other {
        /// The name.
        name: String,
        /// The user's id; never 0.
        uid: u32,
        /// The id of the user's own group.
        gid: u32,
    },
}

/// Why the process cannot be who it is to be.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Nobody said that root is meant.
    #[error(
        "refusing to run as root: name the user to become in `user` of [general], or say \
         user = \"root\" if root is meant"
    )]
    Root,
    /// There is no such user.
    #[error("user {0:?} does not exist on this system")]
    UnknownUser(String),
    /// There is no such group.
    #[error("group {0:?} does not exist on this system")]
    UnknownGroup(String),
    /// The system would not look a name up.
    #[error("cannot look {name:?} up: {source}")]
    LookUp {
        /// The user or group.
        name: String,
        /// Why not.
        source: Errno,
    },
    /// The system would not change who we are.
    #[error("cannot become user {name:?}: {step}: {source}")]
    Change {
        /// The user.
        name: String,
        /// The call that failed.
        step: &'static str,
        /// Why it did.
        source: Errno,
    },
    /// Root could be had back.
    #[error("became user {0:?}, but could become root again")]
    WayBack(String),
}

impl Identity {
    /// Who to be, given the user configured.
    ///
    /// # Errors
    /// Root without a user, or a user whom nobody knows.
    pub fn resolve(user: Option<&str>) -> Result<Self, IdentityError> {
        let is_root = geteuid().is_root() || getuid().is_root();
        let Some(name) = user else {
            return if is_root {
                Err(IdentityError::Root)
            } else {
                Ok(Self::Own { ignored: None })
            };
        };
        let found = User::from_name(name)
            .map_err(|source| IdentityError::LookUp { name: name.to_owned(), source })?;
        match found {
            _ if !is_root => {
                let is_own = found.is_some_and(|user| user.uid == geteuid());
                Ok(Self::Own { ignored: (!is_own).then(|| name.to_owned()) })
            }
            None => Err(IdentityError::UnknownUser(name.to_owned())),
            Some(user) if user.uid.is_root() => Ok(Self::Own { ignored: None }),
            Some(user) => {
                let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
                Ok(Self::Other { name: name.to_owned(), uid, gid })
            }
        }
    }

    /// Whose the files are to be that are made before the change.
    #[must_use]
    pub const fn owner(&self) -> Option<(u32, u32)> {
        match self {
            Self::Own { .. } => None,
            Self::Other { uid, gid, .. } => Some((*uid, *gid)),
        }
    }

    /// Becomes this user, for good.
    ///
    /// # Errors
    /// If the system refuses; the process must then end, whoever it is by now.
    pub fn assume(&self) -> Result<(), IdentityError> {
        let Self::Other { name, uid, gid } = self else {
            return Ok(());
        };
        let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
        let failed =
            |step| move |source| IdentityError::Change { name: name.clone(), step, source };
        // First none of root's groups, then the user's, then there is no right left to take any.
        setgroups(&[gid]).map_err(failed("setgroups"))?;
        let text = CString::new(name.as_str()).expect("BUG: a configured name holds no NUL");
        initgroups(&text, gid).map_err(failed("initgroups"))?;
        setgid(gid).map_err(failed("setgid"))?;
        setuid(uid).map_err(failed("setuid"))?;
        let is_changed = getuid() == uid && geteuid() == uid && getgid() == gid;
        if !is_changed || setuid(Uid::from_raw(0)).is_ok() {
            return Err(IdentityError::WayBack(name.clone()));
        }
        Ok(())
    }
}

/// The id of a group.
///
/// # Errors
/// If there is no such group.
pub fn group_id(name: &str) -> Result<u32, IdentityError> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(IdentityError::UnknownGroup(name.to_owned())),
        Err(source) => Err(IdentityError::LookUp { name: name.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_needs_to_be_told_who_to_be_and_nobody_else_does() {
        let is_root = geteuid().is_root();
        assert_eq!(Identity::resolve(None).is_err(), is_root);
        assert!(matches!(Identity::resolve(Some("root")), Ok(Identity::Own { .. })));
        let nobody = Identity::resolve(Some("nobody")).unwrap();
        assert_eq!(matches!(nobody, Identity::Other { .. }), is_root);
        assert_eq!(nobody.owner().is_some(), is_root);
        let unknown = Identity::resolve(Some("no such user"));
        assert_eq!(unknown.is_err(), is_root);
        if let Err(error) = unknown {
            assert_eq!(error.to_string(), "user \"no such user\" does not exist on this system");
        }
    }

    #[test]
    fn groups_are_found_by_name() {
        assert_eq!(group_id("root").unwrap(), 0);
        assert!(matches!(group_id("no such group"), Err(IdentityError::UnknownGroup(_))));
    }
}
