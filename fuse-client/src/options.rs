//! Mount options, as after `-o`.

use std::str::FromStr;

/// How the file system is mounted. Parsed from "ro,allow_other,…"; later options override earlier ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Refuse all changes.
    pub read_only: bool,
    /// Other users than the one who mounted may enter; permissions are checked in any case. `None`: root lets them.
    pub allow_other: Option<bool>,
    /// suid and sgid bits of programs count.
    pub suid: bool,
    /// Device nodes can be opened.
    pub dev: bool,
    /// Programs can be executed.
    pub exec: bool,
    /// Every write is synchronous.
    pub sync: bool,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self { read_only: false, allow_other: None, suid: false, dev: false, exec: true, sync: false }
    }
}

/// An option that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown mount option \"{0}\"; known are ro, rw, allow_other, suid, nosuid, dev, nodev, exec, noexec, sync, async, \
     noatime, relatime, default_permissions, defaults"
)]
pub struct UnknownOption(pub String);

impl FromStr for MountOptions {
    type Err = UnknownOption;

    fn from_str(list: &str) -> Result<Self, UnknownOption> {
        let mut options = Self::default();
        for option in list.split(',').map(str::trim).filter(|o| !o.is_empty()) {
            options.set(option)?;
        }
        Ok(options)
    }
}

impl MountOptions {
    fn set(&mut self, option: &str) -> Result<(), UnknownOption> {
        match option {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "allow_other" => self.allow_other = Some(true),
            "noallow_other" => self.allow_other = Some(false),
            "suid" => self.suid = true,
            "nosuid" => self.suid = false,
            "dev" => self.dev = true,
            "nodev" => self.dev = false,
            "exec" => self.exec = true,
            "noexec" => self.exec = false,
            "sync" => self.sync = true,
            "async" => self.sync = false,
            "defaults" => *self = Self::default(),
            // Permissions are always checked by the kernel; reading never sets the access time.
            "default_permissions" | "atime" | "noatime" | "relatime" | "diratime" | "nodiratime" => {}
            // For fstab(5), of no meaning here.
            "_netdev" | "auto" | "noauto" | "nofail" | "user" | "nouser" => {}
            comment if comment.starts_with("x-") || comment.starts_with("comment=") => {}
            unknown => return Err(UnknownOption(unknown.to_owned())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_in_order() {
        let parse = |s: &str| s.parse::<MountOptions>();
        assert_eq!(parse(""), Ok(MountOptions::default()));
        let all = parse("ro,allow_other, suid,dev,noexec,sync,rw,x-systemd.automount");
        let expected = MountOptions {
            read_only: false,
            allow_other: Some(true),
            suid: true,
            dev: true,
            exec: false,
            sync: true,
        };
        assert_eq!(all, Ok(expected));
        assert_eq!(parse("suid,nosuid").map(|o| o.suid), Ok(false));
    }

    #[test]
    fn an_unknown_option_is_named() {
        let error = "ro,fast".parse::<MountOptions>().unwrap_err();
        assert_eq!(error, UnknownOption("fast".into()));
        assert!(error.to_string().contains("\"fast\""));
    }
}
