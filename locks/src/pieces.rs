//! What one owner holds of one inode: pieces in order, none overlapping another, none adjoining one of the same mode.

use crate::{Mode, Range};

/// A part of a file in one mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) range: Range,
    pub(crate) mode: Mode,
}

/// Takes a range out; a piece that reaches over it on both sides becomes two.
pub(crate) fn cut(pieces: &mut Vec<Piece>, range: Range) {
    let start = pieces.partition_point(|p| p.range.last < range.first);
    let end = pieces.partition_point(|p| p.range.first <= range.last);
    let mut left = Vec::new();
    for piece in &pieces[start..end] {
        if piece.range.first < range.first {
            left.push(Piece { range: Range { last: range.first - 1, ..piece.range }, ..*piece });
        }
        if piece.range.last > range.last {
            left.push(Piece { range: Range { first: range.last + 1, ..piece.range }, ..*piece });
        }
    }
    pieces.splice(start..end, left);
}

/// Puts a range into a mode, whatever it was before.
pub(crate) fn set(pieces: &mut Vec<Piece>, range: Range, mode: Mode) {
    cut(pieces, range);
    let mut at = pieces.partition_point(|p| p.range.last < range.first);
    let mut piece = Piece { range, mode };
    if let Some(next) = pieces.get(at).filter(|n| n.mode == mode && n.range.first - 1 == range.last) {
        piece.range.last = next.range.last;
        pieces.remove(at);
    }
    if let Some(before) = at.checked_sub(1).map(|b| pieces[b])
        && before.mode == mode
        && before.range.last + 1 == range.first
    {
        piece.range.first = before.range.first;
        at -= 1;
        pieces.remove(at);
    }
    pieces.insert(at, piece);
}

/// The first piece that keeps another owner from having the range in this mode.
pub(crate) fn conflict(pieces: &[Piece], range: Range, mode: Mode) -> Option<&Piece> {
    let start = pieces.partition_point(|p| p.range.last < range.first);
    let overlapping = pieces[start..].iter().take_while(|p| p.range.overlaps(range));
    overlapping.into_iter().find(|p| p.mode == Mode::Exclusive || mode == Mode::Exclusive)
}

/// Whether all of the range is held in this mode or a stronger one.
pub(crate) fn covers(pieces: &[Piece], range: Range, mode: Mode) -> bool {
    let mut next = range.first;
    for piece in pieces.iter().filter(|p| p.range.overlaps(range)) {
        if piece.range.first > next || piece.mode < mode {
            return false;
        }
        if piece.range.last >= range.last {
            return true;
        }
        next = piece.range.last + 1;
    }
    false
}
