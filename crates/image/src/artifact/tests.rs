use super::{Packing, pack::pack, spec::Descriptor, take::budget};
use crate::layers::{Layer, Tree, apply};
use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
};

/// Packs a file and unpacks it again into a directory beside it.
fn there_and_back(dir: &Path, path: &Path, how: Packing) -> (Descriptor, std::path::PathBuf) {
    let packed = pack(path, "disk", dir, how).unwrap();
    let out = dir.join(format!("{how:?}"));
    fs::create_dir(&out).unwrap();
    let mut tree = Tree::in_dir(&out).unwrap();
    let layer = Layer {
        name: "disk".into(),
        packed: Some(packed.descriptor.digest.hex().to_owned()),
        unpacked: None,
    };
    apply(&mut tree, &layer, packed.file, &mut budget()).unwrap();
    (packed.descriptor, out.join("disk"))
}

#[test]
fn a_sparse_file_is_packed_small_and_comes_back_with_its_content_and_its_holes() {
    const SIZE: u64 = (64 << 20) + 4097;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("source");
    let file = File::create(&path).unwrap();
    file.set_len(SIZE).unwrap();
    // More parts than a header has room for, a part that is no hole and all zeros, an odd end.
    for n in 0..40 {
        file.write_all_at(&[7; 5000], 1000 + n * (1 << 20)).unwrap();
    }
    file.write_all_at(&vec![0; 8 << 20], 50 << 20).unwrap();
    file.write_all_at(b"last", SIZE - 4).unwrap();

    for how in [Packing::Gzip, Packing::Zstd] {
        let (descriptor, unpacked) = there_and_back(dir.path(), &path, how);
        assert!(descriptor.size < 64 << 10, "{} bytes", descriptor.size);
        assert!(fs::read(&unpacked).unwrap() == fs::read(&path).unwrap());
        let used = fs::metadata(&unpacked).unwrap().blocks() * 512;
        assert!(used < 8 << 20, "{used} bytes of the disk");
        assert_eq!(pack(&path, "disk", dir.path(), how).unwrap().descriptor, descriptor);
    }
}

#[test]
fn a_file_that_is_dense_empty_or_all_hole_comes_back_too() {
    for (len, content) in [(0, &b""[..]), (3, b"abc"), (1 << 20, b"")] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("source");
        let mut file = File::create(&path).unwrap();
        file.set_len(len).unwrap();
        file.write_all(content).unwrap();
        for how in [Packing::Gzip, Packing::Zstd] {
            let (_, unpacked) = there_and_back(dir.path(), &path, how);
            assert_eq!(fs::read(&unpacked).unwrap(), fs::read(&path).unwrap(), "{len} {how:?}");
        }
    }
}
