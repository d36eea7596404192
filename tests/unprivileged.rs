//! docs/semantics.md, "Without privileges": somebody who is not root runs a cluster of his own.

#![allow(clippy::unwrap_used)]

mod common;

/// In a mount namespace of its own, where everybody may open /dev/fuse as on most systems.
const SCRIPT: &str = r#"
mount --make-rprivate /
dir=$(mktemp -d /tmp/cairn-test.XXXXXX)
trap 'umount -l "$dir/mnt" 2>/dev/null || true; umount /dev/fuse "$dir/dev"; rm -rf --one-file-system "$dir"' EXIT
mkdir "$dir/dev" "$dir/mnt" "$dir/data"
mount -t tmpfs -o dev,size=1m cairn-test "$dir/dev"
mknod -m 666 "$dir/dev/fuse" c 10 229
mount --bind "$dir/dev/fuse" /dev/fuse
cp "$CAIRN_BINARY" "$dir/cairn"
chown -R nobody:nogroup "$dir/mnt" "$dir/data"
chmod 755 "$dir"
cd "$dir"
as() { setpriv --reuid nobody --regid nogroup --clear-groups env HOME="$dir/data" "$@"; }
as ./cairn up "$dir/mnt" --data "$dir/data/c" --detach
as sh -c 'mkdir mnt/d && echo hello > mnt/d/f && chmod 600 mnt/d/f && cat mnt/d/f && stat -c "%U %G %a" mnt mnt/d/f'
as ./cairn down --data "$dir/data/c"
findmnt mnt >/dev/null && echo still mounted
as ./cairn up "$dir/mnt" --data "$dir/data/c" --detach >/dev/null
as cat mnt/d/f
as ./cairn down --data "$dir/data/c"
"#;

#[test]
fn somebody_who_is_not_root_runs_his_own_cluster() {
    let output = std::process::Command::new("timeout")
        .args(["-k", "5", "240", "unshare", "-m", "bash", "-euo", "pipefail", "-c", SCRIPT])
        .env("CAIRN_BINARY", env!("CARGO_BIN_EXE_cairn"))
        .output()
        .unwrap();
    let text = common::text(&output);
    assert!(output.status.success(), "{text}");
    let told: Vec<&str> = text.lines().filter(|l| !l.contains("cairn down")).collect();
    assert_eq!(told, ["hello", "nobody nogroup 755", "nobody nogroup 600", "hello"], "{text}");
}
