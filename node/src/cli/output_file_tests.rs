//! Files that content is gathered in: holes, resuming, and who may overwrite.

use tokio::io::AsyncWriteExt as _;

use super::*;

const MIB: u64 = BLOCK_BYTES as u64;

/// Two MiB of zeros between data, and a tail that fills no block.
fn content() -> Vec<u8> {
    let mut bytes = vec![7; BLOCK_BYTES];
    bytes.resize(3 * BLOCK_BYTES, 0);
    bytes.extend_from_slice(&[9; 1000]);
    bytes
}

async fn write(partial: &Partial, offset: u64, bytes: &[u8], piece: usize) -> u64 {
    let mut writer = partial.writer(offset).unwrap();
    for piece in bytes.chunks(piece) {
        writer.write_all(piece).await.unwrap();
    }
    writer.finish().await.unwrap()
}

fn scratch() -> (tempfile::TempDir, ContentId) {
    (tempfile::tempdir().unwrap(), ContentId::of(&content()))
}

#[tokio::test]
async fn any_cut_gives_the_same_file_with_holes() {
    let (temp, id) = scratch();
    for piece in [4096, 1_000_003, BLOCK_BYTES, 3 * BLOCK_BYTES] {
        let partial = Partial::fresh(temp.path()).unwrap();
        assert_eq!(write(&partial, 0, &content(), piece).await, 3 * MIB + 1000);
        assert!(partial.matches(id).unwrap(), "{piece}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            assert!(partial.file.metadata().unwrap().blocks() * 512 < 2 * MIB);
        }
    }
}

#[tokio::test]
async fn a_hole_at_the_end_counts() {
    let (temp, _) = scratch();
    let zeros = vec![0; 2 * BLOCK_BYTES];
    let partial = Partial::fresh(temp.path()).unwrap();
    assert_eq!(write(&partial, 0, &zeros, BLOCK_BYTES).await, 2 * MIB);
    assert!(partial.matches(ContentId::of(&zeros)).unwrap());
}

#[tokio::test]
async fn resuming_continues_at_a_block_before_the_end() {
    let (temp, id) = scratch();
    let bytes = content();
    for (cut, at) in [(0, 0), (1, 0), (MIB, 0), (MIB + 1, MIB), (3 * MIB, 2 * MIB)] {
        let partial = Partial::resumable(temp.path(), id).unwrap().unwrap();
        write(&partial, 0, &bytes[..cut as usize], 4096).await;
        drop(partial);
        let partial = Partial::resumable(temp.path(), id).unwrap().unwrap();
        assert_eq!(partial.resume_at().unwrap(), at, "cut at {cut}");
        write(&partial, at, &bytes[at as usize..], 4096).await;
        assert!(partial.matches(id).unwrap(), "cut at {cut}");
        partial.discard().unwrap();
    }
}

#[tokio::test]
async fn what_was_behind_the_resume_point_does_not_survive_in_a_hole() {
    let (temp, id) = scratch();
    let partial = Partial::fresh(temp.path()).unwrap();
    // Damage where the content has zeros: a hole must not let it through.
    write(&partial, 0, &vec![5; 4 * BLOCK_BYTES], BLOCK_BYTES).await;
    write(&partial, 0, &content(), BLOCK_BYTES).await;
    assert!(partial.matches(id).unwrap());
}

#[test]
fn two_fetches_of_one_work_do_not_share_a_file() {
    let (temp, id) = scratch();
    let first = Partial::resumable(temp.path(), id).unwrap().unwrap();
    assert!(Partial::resumable(temp.path(), id).unwrap().is_none());
    drop(first);
    assert!(Partial::resumable(temp.path(), id).unwrap().is_some());
}

#[tokio::test]
async fn an_existing_output_is_replaced_by_force_only() {
    let (temp, id) = scratch();
    let target = temp.path().join("out");
    fs::write(&target, b"precious").unwrap();
    let partial = Partial::resumable(temp.path(), id).unwrap().unwrap();
    write(&partial, 0, &content(), BLOCK_BYTES).await;
    let error = partial.move_to(&target, false).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    // What was fetched is still there.
    let partial = Partial::resumable(temp.path(), id).unwrap().unwrap();
    assert!(partial.matches(id).unwrap());
    partial.move_to(&target, true).unwrap();
    assert_eq!(fs::read(&target).unwrap(), content());
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[tokio::test]
async fn outputs_get_the_users_usual_permissions() {
    use std::os::unix::fs::PermissionsExt as _;
    let (temp, id) = scratch();
    let plain = temp.path().join("plain");
    fs::write(&plain, b"").unwrap();
    let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
    let (one, two) = (temp.path().join("one"), temp.path().join("two"));
    Partial::fresh(temp.path()).unwrap().move_to(&one, false).unwrap();
    Partial::resumable(temp.path(), id).unwrap().unwrap().move_to(&two, false).unwrap();
    assert_eq!((mode(&one), mode(&two)), (mode(&plain), mode(&plain)));
}

#[test]
fn copies_to_another_filesystem_stay_sparse_and_exact() {
    let (temp, _) = scratch();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    fs::write(&from, content()).unwrap();
    let mut file = File::create(&to).unwrap();
    copy_sparse(&File::open(&from).unwrap(), &mut file).unwrap();
    assert_eq!(fs::read(&to).unwrap(), content());
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        assert!(file.metadata().unwrap().blocks() * 512 < 2 * MIB);
    }
}
