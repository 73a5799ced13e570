//! What layers do to each other.

use super::*;

#[test]
fn a_later_layer_replaces_adds_and_removes() {
    let below = Tar::new().dir("etc/").file("etc/a", "old").file("etc/b", "b").file("gone/x", "x");
    let above = Tar::new().file("etc/a", "new").file("etc/c", "c").file(".wh.gone", "");
    let laid = laid([below, above]);
    assert_eq!(laid.text("etc/a"), "new");
    assert_eq!(laid.text("etc/b"), "b");
    assert_eq!(laid.text("etc/c"), "c");
    assert!(!laid.has("gone") && !laid.has(".wh.gone"));
}

#[test]
fn a_whiteout_of_what_is_not_there_does_nothing() {
    let laid = laid([Tar::new().file("no/such/.wh.dir", "").file("f/.wh.x", "").file("f/y", "y")]);
    assert!(!laid.has("no"));
    assert_eq!(laid.text("f/y"), "y");
}

#[test]
fn a_whiteout_hides_the_layers_below_and_nothing_of_its_own_layer() {
    let below = || Tar::new().file("d/old", "old").file("d/sub/old", "old").file("f", "old");
    // The order inside a layer means nothing.
    let first =
        Tar::new().file(".wh.d", "").file(".wh.f", "").file("d/sub/new", "new").file("f", "new");
    let last =
        Tar::new().file("d/sub/new", "new").file("f", "new").file(".wh.d", "").file(".wh.f", "");
    for above in [first, last] {
        let laid = laid([below(), above]);
        assert_eq!(laid.text("d/sub/new"), "new");
        assert_eq!(laid.text("f"), "new");
        assert!(!laid.has("d/old") && !laid.has("d/sub/old"));
    }
}

#[test]
fn an_opaque_directory_hides_all_that_is_below_it_and_nothing_of_its_own_layer() {
    let below = || Tar::new().file("d/old", "old").dir("d/sub/").file("d/sub/old", "old");
    let first = Tar::new().dir("d/").file("d/.wh..wh..opq", "").file("d/new", "new");
    let last = Tar::new().dir("d/").file("d/new", "new").file("d/.wh..wh..opq", "");
    for above in [first, last] {
        let laid = laid([below(), above]);
        assert_eq!(laid.text("d/new"), "new");
        assert!(!laid.has("d/old") && !laid.has("d/sub"));
    }
}

#[test]
fn a_new_name_of_an_old_file_outlives_the_old_name() {
    let below = Tar::new().file("d/old", "kept");
    let above = Tar::new().hard_link("d/new", "d/old").file("d/.wh..wh..opq", "");
    let laid = laid([below, above]);
    assert_eq!(laid.text("d/new"), "kept");
    assert!(!laid.has("d/old"));
}

#[test]
fn hard_links_are_one_file_and_a_replaced_name_leaves_the_others() {
    let below = Tar::new().file("a", "one").hard_link("b", "/a").hard_link("c", "./b");
    let laid = laid([below, Tar::new().file("b", "other")]);
    assert_eq!(inode(&laid.path("a")), inode(&laid.path("c")));
    assert_eq!(laid.text("a"), "one");
    assert_eq!(laid.text("b"), "other");
}

#[test]
fn merged_directories_take_entries_by_either_name() {
    let below = Tar::new()
        .dir("usr/")
        .dir("usr/bin/")
        .symlink("bin", "usr/bin")
        .symlink("sbin", "/usr/bin");
    let above = Tar::new().file("bin/sh", "sh").file("sbin/init", "init").file("bin/.wh.gone", "");
    let laid = laid([below, above]);
    assert_eq!(laid.text("usr/bin/sh"), "sh");
    assert_eq!(laid.text("usr/bin/init"), "init");
    assert_eq!(fs::read_link(laid.path("sbin")).unwrap(), Path::new("/usr/bin"));
}

#[test]
fn a_directory_keeps_its_content_when_it_is_named_again_and_loses_it_to_a_file() {
    let below = || Tar::new().dir("d/").file("d/x", "x").symlink("l", "d");
    let kept = laid([below(), Tar::new().dir("d/").dir("l/")]);
    assert_eq!(kept.text("d/x"), "x");
    // A directory in the place of a link is a directory of its own.
    assert!(fs::symlink_metadata(kept.path("l")).unwrap().is_dir() && !kept.has("l/x"));
    let replaced = laid([below(), Tar::new().file("d", "file")]);
    assert_eq!(replaced.text("d"), "file");
}

#[test]
fn of_two_entries_of_one_name_the_last_counts() {
    let laid = laid([Tar::new().file("a", "one").symlink("a", "x").dir("a/").file("a", "last")]);
    assert_eq!(laid.text("a"), "last");
}

#[test]
fn five_hundred_layers_are_laid_one_over_the_other() {
    let layer = |n: u32| {
        let layer = Tar::new().file("last", &n.to_string()).file(&format!("d/{n}"), "");
        if n >= 10 { layer.file(&format!("d/.wh.{}", n - 10), "") } else { layer }
    };
    let laid = laid((0..500).map(layer));
    assert_eq!(laid.text("last"), "499");
    assert_eq!(fs::read_dir(laid.path("d")).unwrap().count(), 10);
}

#[test]
fn entries_of_a_directory_that_became_a_link_on_the_way_go_where_it_leads() {
    let mut laid = Laid::new();
    let layer = Tar::new().dir("d").file("d/before", "x").dir("e").symlink("d", "e");
    laid.lay(layer.file("d/after", "y")).unwrap();
    assert_eq!(fs::read_to_string(laid.path("e/after")).unwrap(), "y");
    assert!(!laid.path("e/before").exists());
    let later = Tar::new().file("e/third", "z").file(".wh.e", "").dir("e").file("e/fourth", "w");
    laid.lay(later).unwrap();
    assert_eq!(fs::read_to_string(laid.path("e/fourth")).unwrap(), "w");
}
