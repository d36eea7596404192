use bytes::Bytes;

use super::kept::{Fetch, Found, Kept};

const LIFETIME: u64 = 1_000;

fn kept() -> Kept {
    Kept::new(1 << 20, LIFETIME)
}

fn missing(found: Found) -> Fetch {
    match found {
        Found::Missing(fetch) => fetch,
        other => panic!("{other:?}"),
    }
}

fn here(found: Found) -> Option<Bytes> {
    if let Found::Here(data) = found { Some(data) } else { None }
}

/// Reads a range of file 1 under lease 7 at time 0 and stores what it is.
fn read(kept: &mut Kept, at: u64, data: &'static [u8]) {
    let fetch = missing(kept.find(1, 7, at..at + data.len() as u64, 0));
    kept.store(&fetch, at, Bytes::from_static(data), 0);
}

#[test]
fn what_was_read_is_found_whole_and_in_parts_until_its_time_is_over() {
    let mut k = kept();
    read(&mut k, 0, b"abcd");
    read(&mut k, 4, b"efgh");
    assert_eq!(here(k.find(1, 7, 0..4, 0)).unwrap(), "abcd");
    assert_eq!(here(k.find(1, 7, 2..7, 0)).unwrap(), "cdefg");
    assert!(here(k.find(1, 7, 2..9, 0)).is_none(), "its end was never read");
    assert!(here(k.find(2, 7, 0..1, 0)).is_none(), "another file");
    assert!(here(k.find(1, 7, 0..8, LIFETIME - 1)).is_some());
    assert!(here(k.find(1, 7, 0..8, LIFETIME)).is_none());
}

#[test]
fn nothing_read_under_another_lease_is_found() {
    let mut k = kept();
    read(&mut k, 0, b"abcd");
    let late = missing(k.find(1, 7, 4..8, 0));
    let fetch = missing(k.find(1, 8, 0..4, 0));
    k.store(&late, 4, Bytes::from_static(b"old!"), 0);
    assert!(here(k.find(1, 8, 4..8, 0)).is_none(), "read under the lease before");
    k.store(&fetch, 0, Bytes::from_static(b"new!"), 0);
    assert_eq!(here(k.find(1, 8, 0..4, 0)).unwrap(), "new!");
    assert!(here(k.find(1, 7, 0..4, 0)).is_none(), "whoever asks with an old lease");
}

#[test]
fn what_is_read_while_this_mount_changes_the_file_is_not_kept() {
    let mut k = kept();
    read(&mut k, 0, b"abcd");
    read(&mut k, 4, b"efgh");
    let before = missing(k.find(1, 7, 8..12, 0));
    k.change_began(1, 4..5);
    k.change_began(1, 20..21);
    assert!(matches!(k.find(1, 7, 0..4, 0), Found::Changing));
    k.change_ended(1);
    assert!(matches!(k.find(1, 7, 0..4, 0), Found::Changing));
    k.change_ended(1);
    k.store(&before, 8, Bytes::from_static(b"old!"), 0);
    assert_eq!(here(k.find(1, 7, 0..4, 0)).unwrap(), "abcd", "was not touched");
    assert!(here(k.find(1, 7, 4..8, 0)).is_none(), "was changed");
    assert!(here(k.find(1, 7, 8..12, 0)).is_none(), "was being read when the change began");
}

#[test]
fn what_is_forgotten_while_it_is_read_is_not_kept() {
    let mut k = kept();
    let first = missing(k.find(1, 7, 0..4, 0));
    k.forget(1);
    k.store(&first, 0, Bytes::from_static(b"old!"), 0);
    assert!(here(k.find(1, 7, 0..4, 0)).is_none());
    let second = missing(k.find(1, 7, 0..4, 0));
    k.clear();
    k.store(&second, 0, Bytes::from_static(b"old!"), 0);
    assert!(here(k.find(1, 7, 0..4, 0)).is_none());
    assert_eq!(k.used(), 0);
}

#[test]
fn memory_is_bounded_and_what_was_used_longest_ago_goes_first() {
    let mut k = Kept::new(100_000, LIFETIME);
    let put = |k: &mut Kept, inode| {
        let fetch = missing(k.find(inode, 7, 0..10_000, 0));
        k.store(&fetch, 0, Bytes::from(vec![inode as u8; 10_000]), 0);
    };
    for inode in 1..=20 {
        put(&mut k, inode);
        assert!(here(k.find(1, 7, 0..10, 0)).is_some(), "always in use");
        assert!(k.used() <= 100_000);
    }
    assert!(here(k.find(2, 7, 0..10, 0)).is_none());
    assert!(here(k.find(20, 7, 0..10, 0)).is_some());
    k.clear();
    assert_eq!(k.used(), 0);
}

#[test]
fn random_reads_and_changes_agree_with_a_plain_file() {
    const SIZE: usize = 300;
    let (mut k, mut file) = (Kept::new(40_000, LIFETIME), [0u8; SIZE]);
    let (mut lease, mut state, mut hits) = (1, 7u64, 0);
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as usize % below
    };
    for step in 0..20_000 {
        let start = next(SIZE);
        let end = start + 1 + next(SIZE - start);
        match next(10) {
            0 => {
                k.change_began(1, start as u64..end as u64);
                file[start..end].fill(step as u8);
                k.change_ended(1);
            }
            1 if next(5) == 0 => {
                lease += 1;
                file[start..end].fill(step as u8);
            }
            _ => match k.find(1, lease, start as u64..end as u64, 0) {
                Found::Here(data) => {
                    hits += 1;
                    assert_eq!(data, &file[start..end], "step {step}");
                }
                Found::Missing(fetch) => {
                    k.store(&fetch, start as u64, Bytes::copy_from_slice(&file[start..end]), 0);
                }
                Found::Changing => panic!("no change is under way"),
            },
        }
    }
    assert!(hits > 1_000, "{hits}");
}
