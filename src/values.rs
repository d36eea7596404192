//! Values on the command line that have a unit: sizes and durations.

use std::time::Duration;

/// A number and its unit, as in `256MiB`; the unit may be absent.
fn split(text: &str) -> Result<(f64, &str), String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| format!("{text:?} does not start with a number"))?;
    Ok((number, unit.trim()))
}

/// A number of bytes: `4096`, `64KiB`, `256MiB`, `1GiB`, `2TiB`, or decimal `kB`, `MB`, `GB`, `TB`.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(format!("unknown unit {unit:?}; use B, KiB, MiB, GiB or TiB")),
    };
    let bytes = number * factor as f64;
    if bytes >= u64::MAX as f64 {
        return Err(format!("{text} is too large"));
    }
    Ok(bytes as u64)
}

/// A duration: `500ms`, `30s`, `5m`, `1h`; without a unit seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(format!("unknown unit {unit:?}; use ms, s, m or h")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text} is too long"))
}

/// `host:port`, not resolved.
pub fn address(text: &str) -> Result<String, String> {
    let (host, port) =
        text.rsplit_once(':').ok_or_else(|| format!("{text:?} has no port; write HOST:PORT"))?;
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err(format!("{host:?} is no host; write HOST:PORT"));
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(text.to_owned()),
        _ => Err(format!("{port:?} is no port (1 to 65535)")),
    }
}

/// One or more [`address`]es with commas between them.
pub fn addresses(text: &str) -> Result<String, String> {
    text.split(',').try_for_each(|a| address(a).map(drop))?;
    Ok(text.to_owned())
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The masters' addresses, with commas between them.
    pub masters: String,
    /// The directory of the cluster that becomes the mount's root: `/` and its names.
    pub directory: String,
}

/// One or more [`address`]es with commas between them, and perhaps a directory behind them: `host:port:/sub/dir`.
pub fn target(text: &str) -> Result<Target, String> {
    let (masters, directory) = match text.find(":/") {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, "/"),
    };
    let names: Vec<&str> = directory.split('/').filter(|n| !matches!(*n, "" | ".")).collect();
    if names.contains(&"..") {
        return Err(format!(
            "{directory:?} has \"..\" in it; write the directory as it is seen from the root"
        ));
    }
    Ok(Target { masters: addresses(masters)?, directory: format!("/{}", names.join("/")) })
}

/// Bytes for people: `1.5 GiB`.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("256MiB"), Ok(256 << 20));
        assert_eq!(size("1.5 GiB"), Ok(3 << 29));
        assert_eq!(size("2MB"), Ok(2_000_000));
        for bad in ["", "MiB", "12parsecs", "-1", "1e99TiB", "99999999999TiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        assert!(duration("soon").is_err());
        assert!(duration("3 fortnights").is_err());
    }

    #[test]
    fn an_address_needs_host_and_port() {
        assert!(address("127.0.0.1:80").is_ok());
        assert!(address("[::1]:80").is_ok());
        for bad in ["", "host", ":80", "host:", "host:0", "host:65536", "ho st:1"] {
            assert!(address(bad).is_err(), "{bad}");
        }
        assert!(addresses("a:1,b:2").is_ok());
        assert!(addresses("a:1,").is_err());
    }

    #[test]
    fn a_directory_may_stand_behind_the_masters() {
        let is = |text: &str, masters: &str, directory: &str| {
            let want = Target { masters: masters.to_owned(), directory: directory.to_owned() };
            assert_eq!(target(text), Ok(want), "{text}");
        };
        is("a:1", "a:1", "/");
        is("a:1:/", "a:1", "/");
        is("a:1,[::1]:2:/x//y/./z/", "a:1,[::1]:2", "/x/y/z");
        is("a:1:/with:/colon", "a:1", "/with:/colon");
        for bad in ["/x", "a:/x", "a:1/x", ":/x", "a:1:x", "a:1:/x/../y", "a:1,:/x"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_for_people() {
        assert_eq!(human(1023), "1023 B");
        assert_eq!(human(3 << 29), "1.5 GiB");
    }
}
