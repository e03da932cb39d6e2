use super::*;
use holdfast_repository::backup::FileFacts;
use holdfast_repository::store::StoreSettings;
use std::fs;
use std::sync::Arc;

const PAGE: usize = page::SIZE;

/// A page as Postgres writes it, last changed just before this LSN.
fn page_of(fill: u8, block: u32, lsn: u64) -> Vec<u8> {
    let mut content = vec![fill; PAGE];
    content[..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
    content[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
    let sum = page::checksum(&content, block);
    content[8..10].copy_from_slice(&sum.to_le_bytes());
    content
}

/// The upper half is the new one's, the lower half still the old one's.
fn torn(old: &[u8], new: &[u8]) -> Vec<u8> {
    [&new[..PAGE / 2], &old[PAGE / 2..]].concat()
}

/// A source whose backup starts at 0/1000, and a file of these pages, which are blocks 7 and on.
async fn file_of(pages: &[Vec<u8>]) -> (tempfile::TempDir, Source, Piece) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    fs::create_dir(&path).unwrap();
    fs::write(dir.path().join("5"), pages.concat()).unwrap();
    let store = StoreSettings::Filesystem { path }.open("a/b").unwrap();
    let source = Source {
        root: dir.path().to_owned(),
        start: Lsn(0x1000),
        data_checksums: true,
        archive: Archive::open_or_create(store, None).await.unwrap(),
        compression: Compression::None,
        dont_cache: AtomicBool::new(true),
    };
    let length = pages.len() * PAGE;
    let piece = Piece {
        file: Arc::new(FileFacts {
            path: "5".into(),
            mode: 0o600,
            size: length as u64,
            modified: 1,
            paged: true,
        }),
        first_block: Some(7),
        region: 0,
        length: length as u32,
    };
    (dir, source, piece)
}

#[tokio::test]
async fn a_page_that_was_torn_is_read_again() {
    let (old, new) = (page_of(1, 8, 0x500), page_of(2, 8, 0x800));
    let good = page_of(3, 7, 0x900);
    let (dir, source, piece) = file_of(&[good.clone(), new.clone()]).await;
    let file = source.open(&piece).unwrap().unwrap();
    // As it was read while Postgres wrote it.
    let mut buffer = [good.clone(), torn(&old, &new)].concat();
    let mut bad = Vec::new();
    source
        .check_pages(&piece, &file, &mut buffer, &mut bad)
        .unwrap();
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!(buffer, [good.clone(), new].concat());
    // Cut off meanwhile.
    let longer = [good.clone(), torn(&old, &page_of(9, 8, 0x800))].concat();
    fs::write(dir.path().join("5"), &good).unwrap();
    buffer.copy_from_slice(&longer);
    source
        .check_pages(&piece, &file, &mut buffer, &mut bad)
        .unwrap();
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!(buffer, [good, vec![0; PAGE]].concat());
}

#[tokio::test]
async fn a_page_that_stays_bad_is_named_and_stored_as_it_was_read() {
    let (old, new) = (page_of(1, 8, 0x500), page_of(2, 8, 0x800));
    let pages = [
        page_of(3, 7, 0x900),
        torn(&old, &new),
        // Newer than the backup's start: the WAL has all of it.
        torn(&page_of(1, 9, 0x500), &page_of(2, 9, 0x1000)),
        // Another block's.
        page_of(4, 9, 0x900),
        vec![0; PAGE],
    ];
    let (_dir, source, piece) = file_of(&pages).await;
    let read = source.read(vec![(piece, None)]).unwrap();
    let blocks: Vec<u32> = read.bad_pages.iter().map(|page| page.block).collect();
    assert_eq!(blocks, [8, 10]);
    assert!(read.bad_pages.iter().all(|page| page.path == "5"));
    let Item::Region(PackedRegion { new: Some(new), .. }) = &read.items[0] else {
        panic!("nothing is stored");
    };
    let digest = backup::digest(&source.archive, &pages.concat());
    assert_eq!(new.digest, digest);
    assert_eq!(new.sums, backup::page_sums(&pages.concat()));
}
