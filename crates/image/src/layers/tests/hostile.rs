//! Layers that mean harm. Each is refused, or does what it does inside the tree.

use super::*;

#[test]
fn a_name_that_climbs_is_refused() {
    for name in ["../x", "a/../../x", "/../x", "a/../.wh.x", ".."] {
        let (entry, problem) = refused(Tar::new().file(name, "x"));
        assert!(matches!(problem, Problem::Climbs), "{problem}");
        assert_eq!(entry, name);
    }
    let (_, problem) = refused(Tar::new().hard_link("x", "../outside/secret"));
    assert!(matches!(problem, Problem::Climbs), "{problem}");
}

#[test]
fn an_absolute_name_lands_inside() {
    let laid = laid([Tar::new().file("/tmp/aetherium-absolute", "x")]);
    assert_eq!(laid.text("tmp/aetherium-absolute"), "x");
    assert!(!Path::new("/tmp/aetherium-absolute").exists());
}

#[test]
fn a_link_that_leads_out_carries_nothing_out() {
    let mut laid = Laid::new();
    let absolute = laid.outside().to_str().unwrap().to_owned();
    let ways =
        [absolute.as_str(), "../outside", "../../../../../../../../../tmp", "/proc/self/root"];
    for way in ways {
        let layers = [
            Tar::new().symlink("out", way).file("out/secret", "changed"),
            Tar::new().symlink("out", way).file("out/.wh.secret", ""),
            Tar::new().symlink("out", way).file("out/.wh..wh..opq", ""),
            Tar::new().symlink("out", way).hard_link("stolen", "out/secret"),
            Tar::new().symlink("out", way).dir("out/made/"),
            Tar::new().symlink("a", way).symlink("b", "a").symlink("c", "b").file("c/secret", "x"),
        ];
        for layer in layers {
            // Refused or kept inside: which of the two is told by other tests.
            let _ = laid.lay(layer);
            laid.assert_outside_is_untouched();
            assert!(!laid.has("stolen"));
        }
    }
}

#[test]
fn a_link_to_the_root_or_above_it_stays_at_the_root() {
    let laid = laid([Tar::new()
        .symlink("up", "../../..")
        .symlink("top", "/")
        .file("up/one", "1")
        .file("top/two", "2")]);
    assert_eq!((laid.text("one").as_str(), laid.text("two").as_str()), ("1", "2"));
}

#[test]
fn a_parent_that_leads_nowhere_or_round_or_is_no_directory_is_refused() {
    let layers = [
        Tar::new().symlink("l", "no/such").file("l/x", ""),
        Tar::new().symlink("l", "l").file("l/x", ""),
        Tar::new().file("l", "").file("l/x", ""),
    ];
    for layer in layers {
        let (entry, problem) = refused(layer);
        assert!(matches!(problem, Problem::Parent(_)), "{problem}");
        assert_eq!(entry, "l/x");
    }
}

#[test]
fn a_file_is_never_written_through_a_link_of_its_name() {
    let mut laid = Laid::new();
    let secret = laid.outside().join("secret");
    let secret = secret.to_str().unwrap();
    laid.lay(
        Tar::new().symlink("a", secret).file("a", "mine").symlink("b", secret).hard_link("c", "b"),
    )
    .unwrap();
    laid.lay(Tar::new().file("b", "mine").file("c", "mine")).unwrap();
    for name in ["a", "b", "c"] {
        assert_eq!(laid.text(name), "mine");
    }
    laid.assert_outside_is_untouched();
}

#[test]
fn a_hard_link_reaches_only_files_of_the_image() {
    let (_, problem) = refused(Tar::new().hard_link("x", "/etc/passwd"));
    assert!(matches!(problem, Problem::LinkMissing { .. }), "{problem}");
    let circular = [
        Tar::new().file("x", "").hard_link("x", "x"),
        Tar::new().dir("d/").hard_link("x", "d"),
        Tar::new().hard_link("x", "/"),
        Tar::new().dir("x/").dir("d/").hard_link("x", "d"),
    ];
    for layer in circular {
        let (_, problem) = refused(layer);
        assert!(matches!(problem, Problem::LinkCircular { .. }), "{problem}");
    }
    let (_, problem) = refused(Tar::new().file("d/f", "").hard_link("d", "d/f"));
    assert!(matches!(problem, Problem::LinkMissing { .. }), "{problem}");
}

#[test]
fn device_nodes_are_left_out_and_counted() {
    let laid = laid([Tar::new()
        .entry(EntryType::Char, "dev/mem", "", b"")
        .entry(EntryType::Block, "dev/sda", "", b"")
        .file("after", "x")]);
    assert_eq!(laid.devices, 2);
    assert!(!laid.has("dev") && laid.has("after"));
}

#[test]
fn the_root_can_be_neither_replaced_nor_hidden() {
    let replacing = [
        Tar::new().file("/", "x").bytes(),
        Tar::new().file("./", "x").bytes(),
        Tar::new().symlink(".", "/etc").bytes(),
        Tar::new().file("f", "").hard_link("/", "f").bytes(),
    ];
    for (n, layer) in replacing.iter().enumerate() {
        // A file whose name ends with a slash is a directory in old archives, and harmless.
        if n < 2 {
            Laid::new().lay_within(layer, Limits::default()).unwrap();
            continue;
        }
        let (_, problem) = refused_within(layer, Limits::default());
        assert!(matches!(problem, Problem::RootReplaced), "{problem}");
    }
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.."] {
        let (_, problem) = refused(Tar::new().file("d/x", "").file(name, ""));
        assert!(matches!(problem, Problem::EmptyWhiteout), "{name}: {problem}");
    }
}

#[test]
fn names_that_linux_cannot_take_are_refused() {
    let (_, problem) = refused(Tar::new().pax(&[("path", b"a\0b")]).file("a", ""));
    assert!(matches!(problem, Problem::ZeroByte), "{problem}");
    let (_, problem) = refused(Tar::new().pax(&[("path", &[b'n'; 256])]).file("a", ""));
    assert!(matches!(problem, Problem::NameTooLong { longest: 256, .. }), "{problem}");
    let (_, problem) = refused(Tar::new().symlink("l", ""));
    assert!(matches!(problem, Problem::LinkText { bytes: 0 }), "{problem}");
    let deep = "d/".repeat(300);
    let (_, problem) = refused(Tar::new().pax(&[("path", deep.as_bytes())]).dir("d"));
    assert!(matches!(problem, Problem::TooDeep { .. }), "{problem}");
    let chained = "d/".repeat(200);
    let through_link = Tar::new()
        .pax(&[("path", chained.as_bytes())])
        .dir("d")
        .pax(&[("linkpath", chained.as_bytes())])
        .symlink("l", "")
        .pax(&[("path", format!("l/{chained}").as_bytes())])
        .dir("d");
    let (_, problem) = refused(through_link);
    assert!(matches!(problem, Problem::TooDeep { .. }), "{problem}");
}

#[test]
fn an_unknown_type_is_refused() {
    let (_, problem) = refused(Tar::new().entry(EntryType::new(b'!'), "x", "", b""));
    assert!(matches!(problem, Problem::Type { flag: '!' }), "{problem}");
}

#[test]
fn a_layer_that_packs_too_well_is_refused() {
    let layer = gzip(&Tar::new().entry(EntryType::Regular, "zeros", "", &[0; 4 << 20]).bytes());
    let strict = Limits { ratio_from: 1 << 20, ..Limits::default() };
    let (entry, problem) = refused_within(&layer, strict);
    assert!(matches!(problem, Problem::TooDense { .. }), "{problem}");
    assert_eq!(entry, "zeros");
    let relaxed = Limits { ratio_from: 8 << 20, ..Limits::default() };
    Laid::new().lay_within(&layer, relaxed).unwrap();
    // What follows the end of the archive counts too.
    let mut bytes = Tar::new().file("a", "").bytes();
    bytes.resize(4 << 20, 0);
    let (_, problem) = refused_within(&gzip(&bytes), strict);
    assert!(matches!(problem, Problem::TooDense { .. }), "{problem}");
}

#[test]
fn an_image_has_so_many_bytes_and_entries_and_no_more() {
    let strict = Limits { bytes: 10_000, entries: 3, ..Limits::default() };
    let three = Tar::new().file("a", "").file("b", "").file("c", "");
    Laid::new().lay_within(&three.bytes(), strict).unwrap();
    let four = Tar::new().file("a", "").file("a", "").file("a", "").file("a", "");
    let (_, problem) = refused_within(&four.bytes(), strict);
    assert!(matches!(problem, Problem::TooManyEntries { max: 3 }), "{problem}");
    let large = Tar::new().entry(EntryType::Regular, "a", "", &[1; 10_001]);
    let (_, problem) = refused_within(&large.bytes(), strict);
    assert!(matches!(problem, Problem::TooLarge { max: 10_000 }), "{problem}");
    // A hole costs the archive nothing, but counts.
    let mut hole = header(EntryType::GNUSparse, b"hole", 0);
    hole.as_gnu_mut().unwrap().realsize[..11].copy_from_slice(b"00000100000");
    hole.set_cksum();
    let (_, problem) = refused_within(&Tar::new().header(&hole, b"").bytes(), strict);
    assert!(matches!(problem, Problem::TooLarge { max: 10_000 }), "{problem}");
}

#[test]
fn headers_are_not_taken_into_memory_without_a_bound() {
    for kind in [EntryType::XHeader, EntryType::GNULongName, EntryType::GNULongLink] {
        let (_, problem) = refused(Tar::new().entry(kind, "x", "", &vec![b'1'; 2 << 20]));
        assert!(matches!(problem, Problem::HeadersTooLarge { .. }), "{problem}");
    }
    let value = vec![1; 8000];
    let attributes = Tar::new().pax(&[("SCHILY.xattr.user.big", &value)]).file("x", "");
    let (_, problem) = refused(attributes);
    assert!(matches!(problem, Problem::Attributes { .. }), "{problem}");
}

#[test]
fn a_layer_that_is_cut_short_or_is_none_is_refused() {
    let whole = Tar::new().file("a", &"x".repeat(2000)).bytes();
    for length in [100, 600, 2000] {
        let (_, problem) = refused_within(&whole[..length], Limits::default());
        assert!(matches!(problem, Problem::Unreadable(_)), "{length}: {problem}");
    }
    let packed = gzip(&whole);
    for bytes in [&packed[..packed.len() / 2], &[b'x'; 1024][..]] {
        let (_, problem) = refused_within(bytes, Limits::default());
        assert!(matches!(problem, Problem::Unreadable(_)), "{problem}");
    }
}

#[test]
fn a_layer_that_is_not_the_one_named_is_refused() {
    let bytes = gzip(&Tar::new().file("a", "x").bytes());
    let wrong = Some("0".repeat(64));
    let layers = [
        Layer { name: "1".into(), packed: wrong.clone(), unpacked: None },
        Layer { name: "1".into(), packed: None, unpacked: wrong },
    ];
    for layer in layers {
        let mut laid = Laid::new();
        let error = apply(&mut laid.tree, &layer, &bytes[..], &mut Budget::new(Limits::default()));
        let Err(ImageError::LayerRefused { problem, .. }) = error else { panic!("{error:?}") };
        assert!(matches!(problem, Problem::Digest { .. }), "{problem}");
    }
}

#[test]
fn what_is_wrong_with_an_entry_is_told_though_much_follows_it() {
    let much = Tar::new().file("../out", "x").file("large", &"0".repeat(8 << 20)).bytes();
    for layer in [gzip(&much), much] {
        let refused = Laid::new().lay_within(&layer, Limits::default());
        let Err(ImageError::LayerRefused { entry, problem, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert!(entry == "../out" && matches!(problem, Problem::Climbs), "{entry}: {problem}");
    }
}
