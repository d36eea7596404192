//! Mounting without being root, by the setuid program `fusermount3`.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};

use super::MountError;
use crate::options::MountOptions;

const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];
/// The variable in which the program finds the socket for its answer.
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";

fn option_list(source: &str, options: &MountOptions) -> String {
    let escaped = source.replace('\\', "\\\\").replace(',', "\\,");
    let mut list = format!("fsname={escaped},subtype=cairn,default_permissions");
    let mut add = |set: bool, option: &str| {
        if set {
            list.push(',');
            list.push_str(option);
        }
    };
    add(options.read_only, "ro");
    add(!options.suid, "nosuid");
    add(!options.dev, "nodev");
    add(!options.exec, "noexec");
    add(options.sync, "sync");
    add(options.allow_other == Some(true), "allow_other");
    list
}

pub(super) fn mount(dir: &Path, source: &str, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let failed = |e: io::Error| MountError::Mount { dir: dir.to_owned(), source: e };
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None)
            .map_err(|e| failed(e.into()))?;
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    let mut reasons = String::from("fusermount3 is not installed");
    for program in PROGRAMS {
        let run = Command::new(program)
            .args(["-o", &option_list(source, options), "--"])
            .arg(dir)
            .env(SOCKET_VARIABLE, theirs.as_raw_fd().to_string())
            .stdin(Stdio::null())
            .output();
        match run {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
            Ok(done) if !done.status.success() => {
                reasons = String::from_utf8_lossy(&done.stderr).trim().to_owned();
                break;
            }
            Ok(_) => return receive(&ours).map_err(failed),
        }
    }
    Err(MountError::NotPermitted(reasons))
}

fn receive(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(device) = descriptors.next()
        {
            return Ok(device);
        }
    }
    Err(io::Error::other("fusermount sent no device"))
}

pub(super) fn unmount(dir: &Path, lazy: bool) -> Result<(), String> {
    let flags = if lazy { "-uz" } else { "-u" };
    let mut reason = String::from("not permitted, and fusermount3 is not installed");
    for program in PROGRAMS {
        match Command::new(program).args([flags, "--"]).arg(dir).stdin(Stdio::null()).output() {
            Ok(done) if done.status.success() => return Ok(()),
            Ok(done) => reason = String::from_utf8_lossy(&done.stderr).trim().to_owned(),
            Err(_) => {}
        }
    }
    Err(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_the_source_is_no_option() {
        let options = MountOptions { allow_other: Some(true), dev: true, ..MountOptions::default() };
        assert_eq!(
            option_list("cairn:a:1,b:2", &options),
            "fsname=cairn:a:1\\,b:2,subtype=cairn,default_permissions,nosuid,allow_other"
        );
    }
}
