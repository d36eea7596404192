//! The corners that random operations do not find.

use bytes::Bytes;
use cairn_proto::SessionId;
use cairn_proto::rpc::{self, op::Op as Body, reply::Result as Body2};

use super::super::{announces, end_session, errno};
use super::{Namespace, link, lookup, make, rename, rmdir, unlink};
use crate::core::cluster::Event;
use crate::core::keys;
use crate::core::scratch::Scratch;
use crate::store::Store;

const ROOT: u64 = 1;
const FILE: u32 = 0o100_644;
const DIR: u32 = 0o040_755;

fn set(inode: u64, change: impl FnOnce(&mut rpc::SetAttr)) -> Body {
    let mut op = rpc::SetAttr { inode, ..rpc::SetAttr::default() };
    change(&mut op);
    Body::SetAttr(op)
}

fn set_xattr(inode: u64, name: &str, value: &[u8], flags: u32) -> Body {
    let (name, value) = (name.to_owned().into(), Bytes::copy_from_slice(value));
    Body::SetXattr(rpc::SetXattr { inode, name, value, flags, kill_sgid: false })
}

fn alloc(inode: u64, from: u64, count: u32) -> Body {
    Body::AllocChunks(rpc::AllocChunks { inode, from, count })
}

#[test]
fn names_have_limits() {
    let mut n = Namespace::new();
    assert_eq!(n.errno(make(ROOT, &"x".repeat(255), FILE)), 0);
    assert_eq!(n.errno(make(ROOT, &"x".repeat(256), FILE)), errno::ENAMETOOLONG.0);
    assert_eq!(n.errno(make(ROOT, "a/b", FILE)), errno::EINVAL.0);
    assert_eq!(n.errno(make(ROOT, "", FILE)), errno::ENOENT.0);
    assert_eq!(n.errno(make(ROOT, ".", DIR)), errno::EEXIST.0);
    assert_eq!(n.errno(rmdir(ROOT, ".")), errno::EINVAL.0);
    assert_eq!(n.errno(rmdir(ROOT, "..")), errno::ENOTEMPTY.0);
    assert_eq!(n.errno(rename(ROOT, ".", ROOT, "b", 0)), errno::EBUSY.0);
    assert_eq!(n.errno(rename(ROOT, "a", ROOT, "b", 4)), errno::EINVAL.0);
}

#[test]
fn a_directory_hands_down_its_group() {
    let mut n = Namespace::new();
    let parent = n.attr(make(ROOT, "d", DIR)).inode;
    n.attr(set(parent, |op| {
        op.gid = Some(77);
        op.mode = Some(0o2_775);
    }));
    let file = n.attr(make(parent, "f", FILE));
    assert_eq!((file.gid, file.mode), (77, FILE));
    let dir = n.attr(make(parent, "d", DIR));
    assert_eq!((dir.gid, dir.mode), (77, 0o042_755));
}

#[test]
fn an_unlinked_file_lives_until_it_is_closed() {
    let mut n = Namespace::new();
    let file = n.attr(make(ROOT, "f", FILE)).inode;
    n.run(alloc(file, 0, 2));
    n.run(Body::Opened(rpc::Opened { inodes: vec![file] }));
    n.session = SessionId(2);
    assert_eq!(n.attr(unlink(ROOT, "f", true)).nlink, 0);
    assert_eq!(n.errno(link(file, ROOT, "g")), errno::ENOENT.0);
    n.run(Body::Closed(rpc::Closed { inodes: vec![file] }));
    assert_eq!(n.stat(file).nlink, 0, "the other session holds it");
    n.session = SessionId(1);
    n.run(Body::Closed(rpc::Closed { inodes: vec![file] }));
    assert!(matches!(n.events[..], [Event::ChunkDeleted { .. }, Event::ChunkDeleted { .. }]));
    assert_eq!(n.errno(Body::GetAttr(rpc::GetAttr { inode: file })), errno::ESTALE.0);
    assert_eq!((n.count(keys::CHUNK), n.count(keys::FILE_CHUNK), n.count(keys::GARBAGE)), (0, 0, 2));
    assert_eq!(n.count(keys::OPENER), 0);
}

#[test]
fn in_company_an_unlinked_file_stays_until_nobody_lets_it_go() {
    let mut n = Namespace::new();
    n.company = true;
    let [kept, gone] = ["f", "g"].map(|name| n.attr(make(ROOT, name, FILE)).inode);
    for name in ["f", "g"] {
        assert_eq!(n.attr(unlink(ROOT, name, false)).nlink, 0);
    }
    assert_eq!((n.stat(kept).nlink, n.stat(gone).nlink), (0, 0), "a kernel may have just looked it up");
    // One of them is opened by the other mount.
    n.session = SessionId(2);
    n.run(Body::Opened(rpc::Opened { inodes: vec![kept] }));
    n.session = super::super::NOBODY;
    n.run(Body::Closed(rpc::Closed { inodes: vec![kept, gone] }));
    assert_eq!(n.stat(kept).nlink, 0);
    assert_eq!(n.errno(Body::GetAttr(rpc::GetAttr { inode: gone })), errno::ESTALE.0);
    n.session = SessionId(2);
    n.run(Body::Closed(rpc::Closed { inodes: vec![kept] }));
    assert_eq!((n.count(keys::INODE), n.count(keys::OPENER)), (1, 0));
}

#[test]
fn a_session_that_ends_lets_go() {
    let mut n = Namespace::new();
    let mut op = rpc::Make { parent: ROOT, name: "f".into(), mode: FILE, ..rpc::Make::default() };
    op.open = true;
    let file = n.attr(Body::Make(op)).inode;
    n.attr(unlink(ROOT, "f", false));
    assert_eq!(n.stat(file).nlink, 0);
    let base = n.store.clone();
    let mut scratch = Scratch::new(&base, n.counters);
    let mut context = super::Context {
        session: n.session,
        now: n.now,
        copies: 3,
        chunk_size: 1 << 20,
        place: &mut || Ok(Vec::new()),
        space: rpc::StatfsReply::default(),
        linger: false,
        events: Vec::new(),
        lingering: Vec::new(),
    };
    end_session(&mut scratch, &mut context, n.session).unwrap();
    n.store.commit(scratch.into_batch().0).unwrap();
    assert_eq!((n.count(keys::INODE), n.count(keys::OPENER)), (1, 0));
}

#[test]
fn a_file_is_cut_only_as_it_was_known() {
    let mut n = Namespace::new();
    let file = n.attr(make(ROOT, "f", FILE));
    let cut = |version| set(file.inode, |op| (op.size, op.if_version) = (Some(5), Some(version)));
    n.run(Body::Grow(rpc::Grow { inode: file.inode, size: 10, ..rpc::Grow::default() }));
    assert_eq!(n.errno(cut(file.version)), errno::EAGAIN.0);
    let grown = n.stat(file.inode);
    assert_eq!(grown.size, 10);
    assert_eq!(n.attr(cut(grown.version)).size, 5);
}

#[test]
fn sizes_go_to_the_end_of_the_scale() {
    let mut n = Namespace::new();
    let file = n.attr(make(ROOT, "f", FILE)).inode;
    let largest = i64::MAX as u64;
    assert_eq!(n.attr(set(file, |op| op.size = Some(largest))).size, largest);
    assert_eq!(n.errno(set(file, |op| op.size = Some(largest + 1))), errno::EFBIG.0);
    let last = largest / (1 << 20);
    assert_eq!(n.errno(alloc(file, last, 1)), 0);
    assert_eq!(n.errno(alloc(file, last + 1, 1)), errno::EFBIG.0);
    assert_eq!(n.errno(alloc(file, u64::MAX, 1)), errno::EFBIG.0);
    n.run(alloc(file, 0, 3));
    // Keeps the chunk that holds the last byte, drops those behind.
    n.attr(set(file, |op| op.size = Some((1 << 20) + 1)));
    assert_eq!(n.count(keys::FILE_CHUNK), 2);
    n.attr(set(file, |op| op.size = Some(1 << 20)));
    assert_eq!(n.count(keys::FILE_CHUNK), 1);
    assert_eq!(n.errno(set(ROOT, |op| op.size = Some(0))), errno::EISDIR.0);
}

#[test]
fn chunks_are_made_where_there_are_none_and_dropped_where_asked() {
    let mut n = Namespace::new();
    let file = n.attr(make(ROOT, "f", FILE)).inode;
    n.run(alloc(file, 1, 1));
    let chunks = |reply: rpc::Reply| match reply.result {
        Some(Body2::Chunks(c)) => c.chunks.iter().map(|c| (c.index, c.chunk)).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(chunks(n.run(alloc(file, 0, 3))), [(0, 2), (1, 1), (2, 3)]);
    let get = Body::GetChunks(rpc::GetChunks { inode: file, from: 1, count: 9, neighbours: 0 });
    assert_eq!(chunks(n.run(get.clone())), [(1, 1), (2, 3)]);
    n.attr(Body::DropChunks(rpc::DropChunks { inode: file, from: 2, to: u64::MAX }));
    assert_eq!(chunks(n.run(get)), [(1, 1)]);
    let dir = n.attr(make(ROOT, "d", DIR)).inode;
    assert_eq!(n.errno(alloc(dir, 0, 1)), errno::EISDIR.0);
}

#[test]
fn neighbours_are_the_next_files_with_a_first_chunk() {
    let mut n = Namespace::new();
    let files: Vec<u64> = (0..6).map(|i| n.attr(make(ROOT, &format!("f{i}"), FILE)).inode).collect();
    // The second has no chunk, the third none at its beginning.
    for (file, from, count) in [(0, 0, 1), (2, 1, 4), (3, 0, 2), (4, 0, 1), (5, 0, 1)] {
        n.run(alloc(files[file], from, count));
    }
    n.attr(Body::Grow(rpc::Grow { inode: files[3], size: 77, ..rpc::Grow::default() }));
    let mut ask = |inode: u64, neighbours: u32| {
        let get = Body::GetChunks(rpc::GetChunks { inode, from: 0, count: 1, neighbours });
        let Some(Body2::Chunks(found)) = n.run(get).result else { panic!() };
        let told = |n: &rpc::Neighbour| n.chunk.as_ref().map(|c| (c.inode, c.index, n.size));
        (found.chunks.len(), found.neighbours.iter().filter_map(told).collect::<Vec<_>>())
    };
    assert_eq!(ask(files[0], 0), (1, vec![]));
    assert_eq!(ask(files[0], 2), (1, vec![(files[3], 0, 77), (files[4], 0, 0)]));
    assert_eq!(ask(files[1], 9), (0, vec![(files[3], 0, 77), (files[4], 0, 0), (files[5], 0, 0)]));
    assert_eq!(ask(files[5], u32::MAX), (1, vec![]));
    assert_eq!(ask(files[0], 1), (1, vec![]), "what lies in between bounds the search");
}

#[test]
fn writing_grows_and_never_shrinks() {
    let mut n = Namespace::new();
    let file = n.attr(make(ROOT, "f", FILE)).inode;
    let time = rpc::Time { secs: 50, nanos: 7 };
    let told = rpc::Grow { inode: file, mtime: Some(time), ..rpc::Grow::default() };
    let grow = |size| Body::Grow(rpc::Grow { size, ..told });
    let attr = n.attr(grow(10));
    assert_eq!((attr.size, attr.mtime, attr.ctime), (10, Some(time), Some(time)));
    assert_eq!(n.attr(grow(5)).size, 10);
    let append = |append| Body::Grow(rpc::Grow { append, ..told });
    assert_eq!(n.attr(append(7)).size, 17);
    assert_eq!(n.attr(append(7)).size, 24);
    assert_eq!(n.errno(append(u64::MAX)), errno::EFBIG.0);
    assert_eq!(n.errno(append(i64::MAX as u64)), errno::EFBIG.0);
    let (before, nothing) = (n.attr(grow(0)), Body::Grow(rpc::Grow { inode: file, ..rpc::Grow::default() }));
    assert!(announces(&nothing) && !announces(&grow(0)) && !announces(&append(1)));
    assert_eq!(n.attr(nothing), before, "the version, too");
}

#[test]
fn privileges_are_dropped_as_linux_does() {
    let mut n = Namespace::new();
    let kill = |n: &mut Namespace, name: &str, mode: u32| {
        let inode = n.attr(make(ROOT, name, 0o100_000 | mode)).inode;
        n.attr(set(inode, |op| op.kill_suidgid = true)).mode & 0o7_777
    };
    assert_eq!(kill(&mut n, "a", 0o6_755), 0o755);
    assert_eq!(kill(&mut n, "b", 0o6_745), 0o2_745, "without group execution sgid means locking");
}

#[test]
fn times_are_set_as_told() {
    let mut n = Namespace::new();
    let file = n.attr(make(ROOT, "f", FILE));
    let at = rpc::Time { secs: -5, nanos: 999_999_999 };
    let attr = n.attr(set(file.inode, |op| op.mtime = Some(at)));
    assert_eq!((attr.mtime, attr.atime), (Some(at), file.atime));
    assert_ne!(attr.ctime, file.ctime);
    assert_eq!(n.attr(set(file.inode, |_| {})), attr, "nothing asked, nothing changed");
    let bad = rpc::Time { secs: 0, nanos: 1_000_000_000 };
    assert_eq!(n.errno(set(file.inode, |op| op.atime = Some(bad))), errno::EINVAL.0);
}

#[test]
fn attributes_are_created_replaced_and_bounded() {
    let mut n = Namespace::new();
    let file = n.attr(make(ROOT, "f", FILE)).inode;
    assert_eq!(n.errno(set_xattr(file, "user.a", b"1", 2)), errno::ENODATA.0);
    assert!(n.attr(set_xattr(file, "user.a", b"1", 1)).has_xattrs);
    assert_eq!(n.errno(set_xattr(file, "user.a", b"2", 1)), errno::EEXIST.0);
    assert_eq!(n.errno(set_xattr(file, "user.a", &[0; 65_536], 2)), 0);
    assert_eq!(n.errno(set_xattr(file, "user.a", &[0; 65_537], 2)), errno::E2BIG.0);
    assert_eq!(n.errno(set_xattr(file, &"u".repeat(256), b"", 0)), errno::ERANGE.0);
    assert_eq!(n.errno(set_xattr(file, "system.other", b"", 0)), errno::EOPNOTSUPP.0);
    let remove = Body::RemoveXattr(rpc::RemoveXattr { inode: file, name: "user.a".into() });
    assert!(!n.attr(remove.clone()).has_xattrs);
    assert_eq!(n.errno(remove), errno::ENODATA.0);
    let mut taken = 0;
    while n.errno(set_xattr(file, &format!("user.{taken:0250}"), b"", 0)) == 0 {
        taken += 1;
    }
    assert_eq!(taken, 256, "as many names as listxattr can give back");
    n.attr(unlink(ROOT, "f", false));
    assert_eq!(n.count(keys::XATTR), 0);
}

/// An access control list: tag, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&perm.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

#[test]
fn access_lists_and_modes_are_one_thing() {
    let mut n = Namespace::new();
    let dir = n.attr(make(ROOT, "d", DIR)).inode;
    let named = acl(&[(1, 7, !0), (2, 5, 1000), (4, 5, !0), (16, 5, !0), (32, 0, !0)]);
    assert_eq!(n.attr(set_xattr(dir, "system.posix_acl_access", &named, 0)).mode & 0o777, 0o750);
    assert_eq!(n.attr(set(dir, |op| op.mode = Some(0o700))).mode & 0o777, 0o700);
    let get = Body::GetXattr(rpc::GetXattr { inode: dir, name: "system.posix_acl_access".into() });
    let masked = acl(&[(1, 7, !0), (2, 5, 1000), (4, 5, !0), (16, 0, !0), (32, 0, !0)]);
    assert_eq!(n.run(get.clone()).result, Some(Body2::Data(masked.into())));
    let minimal = acl(&[(1, 6, !0), (4, 4, !0), (32, 4, !0)]);
    let attr = n.attr(set_xattr(dir, "system.posix_acl_access", &minimal, 0));
    assert_eq!((attr.mode & 0o777, attr.has_xattrs), (0o644, false));
    assert_eq!(n.errno(get), errno::ENODATA.0);
    assert_eq!(n.errno(set_xattr(dir, "system.posix_acl_access", b"junk", 0)), errno::EOPNOTSUPP.0);
}

#[test]
fn default_access_lists_are_handed_down() {
    let mut n = Namespace::new();
    let dir = n.attr(make(ROOT, "d", DIR)).inode;
    let default = acl(&[(1, 7, !0), (2, 7, 1000), (4, 5, !0), (16, 7, !0), (32, 0, !0)]);
    n.attr(set_xattr(dir, "system.posix_acl_default", &default, 0));
    let file = n.attr(make(dir, "f", 0o100_666));
    assert_eq!((file.mode & 0o777, file.has_xattrs), (0o660, true));
    assert_eq!(n.errno(set_xattr(file.inode, "system.posix_acl_default", &default, 0)), errno::EACCES.0);
    let sub = n.attr(make(dir, "s", 0o040_777)).inode;
    let get = Body::GetXattr(rpc::GetXattr { inode: sub, name: "system.posix_acl_default".into() });
    assert_eq!(n.run(get).result, Some(Body2::Data(default.into())));
    assert!(!n.attr(make(dir, "l", 0o120_777)).has_xattrs);
}

#[test]
fn pages_go_on_after_the_last_name() {
    let mut n = Namespace::new();
    for i in 0..10 {
        n.run(make(ROOT, &format!("f{i}"), FILE));
    }
    let mut names = Vec::new();
    let mut after = Bytes::new();
    loop {
        let op = rpc::ReadDir { inode: ROOT, after: after.clone(), limit: 3, plus: true };
        let Some(Body2::Dir(page)) = n.run(Body::ReadDir(op)).result else { panic!("no page") };
        after = page.entries.last().map_or(after, |e| e.name.clone());
        assert!(page.entries.iter().all(|e| e.attr.is_some_and(|a| a.inode == e.inode)));
        names.extend(page.entries.into_iter().map(|e| e.name));
        if page.end {
            break;
        }
        // What goes and comes in between does not disturb the rest.
        n.run(unlink(ROOT, "f0", false));
    }
    assert_eq!(names.len(), 10);
    assert_eq!(n.errno(lookup(ROOT, "f0")), errno::ENOENT.0);
}
