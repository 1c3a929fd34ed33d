//! Proving bytes against a BLAKE3 root: outboards of whole contents, split by manifest pages, and
//! verified slices in the standard bao combined encoding.
//!
//! The tree is BLAKE3's own; a group of 2^g leaves is hashed and sent whole. The walk over it is
//! written here, on `blake3::hazmat`, because a shard without an outboard must be proven in one
//! pass at full hashing speed and a stream must be checked without copies; the tests hold every
//! format equal to `bao-tree`'s. It never hands out a byte before its hash verified, and never
//! allocates more than one group beyond what the caller asked for. Source: SPEC_DATA.md sections
//! 4 and 5; the BLAKE3 and Bao specifications.

mod content;
mod encode;
mod mibs;
mod slice;
mod tree;

pub use content::{
    BuilderError, ContentOutboard, ContentOutboardBuilder, ContentShape, GroupCvs, GroupError,
    OutboardError, PageCvs, PagePart, group_cv,
};
pub use encode::{EncodeError, Outboard, ReadAt, SliceEncoder, encode_slice, outboard};
pub use mibs::{MibCvsError, mib_cvs};
pub use slice::{SliceDecoder, SliceError, decode_slice, slice_len, verify_leaf};
pub use tree::ShapeError;
