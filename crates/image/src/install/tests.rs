use super::*;
use crate::ext4;
use std::{os::unix::fs::symlink, path::PathBuf, process::Command};
use tempfile::TempDir;

/// An image of a tree, and a directory to work in.
struct Place {
    dir: TempDir,
    image: PathBuf,
}

impl Place {
    fn new(tree: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (root, image) = (dir.path().join("root"), dir.path().join("image"));
        fs::create_dir_all(root.join("etc")).unwrap();
        tree(&root);
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-d"])
            .args([&root, &image])
            .arg("8M")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .status();
        assert!(made.unwrap().success());
        Self { dir, image }
    }

    fn work(&self) -> &Path {
        self.dir.path()
    }

    async fn look(&self) -> Found {
        look(&self.image, self.work()).await.unwrap()
    }

    async fn write(&self, agent: &Agent, init: ImageInit) -> Stamp {
        let stamp = write(&self.image, self.work(), agent, init).await.unwrap();
        ext4::check(&self.image).await.unwrap();
        stamp
    }
}

fn with_systemd(root: &Path) {
    fs::create_dir_all(root.join("usr/lib/systemd")).unwrap();
    symlink("usr/lib", root.join("lib")).unwrap();
    fs::write(root.join("usr/lib/systemd/systemd"), "").unwrap();
}

fn agent(content: &str) -> Agent {
    let bytes = content.repeat(100_000).into_bytes();
    Agent { sha256: digest::of_bytes(&bytes), bytes, version: "1.2.0".to_owned() }
}

#[tokio::test]
async fn an_installed_agent_is_found_again_with_its_unit_enabled() {
    let place = Place::new(with_systemd);
    let before = place.look().await;
    assert_eq!((before.init, before.agent), (ImageInit::Systemd, FoundAgent::Absent));
    let stamp = place.write(&agent("one"), ImageInit::Systemd).await;
    let found = place.look().await;
    assert_eq!((found.agent, found.agent_bytes), (FoundAgent::Whole(stamp), 300_000));
    let inside = Debugfs { image: &place.image, work: place.work() };
    let said = inside.dump(UNIT, "unit-again").await.unwrap().unwrap();
    assert_eq!(fs::read_to_string(said).unwrap(), UNIT_TEXT);
    let stat = Command::new("/usr/sbin/debugfs")
        .args(["-R", &format!("stat {AGENT}")])
        .arg(&place.image)
        .output()
        .unwrap();
    let stat = String::from_utf8(stat.stdout).unwrap();
    assert!(stat.contains("Mode:  0755") && stat.contains("User:     0"), "{stat}");
}

#[tokio::test]
async fn another_agent_takes_the_place_of_the_one_before_and_its_room() {
    let place = Place::new(with_systemd);
    place.write(&agent("one"), ImageInit::Systemd).await;
    let free = crate::superblock::Superblock::read(&place.image).unwrap().free_blocks;
    let stamp = place.write(&agent("two"), ImageInit::Systemd).await;
    assert_eq!(place.look().await.agent, FoundAgent::Whole(stamp));
    let after = crate::superblock::Superblock::read(&place.image).unwrap().free_blocks;
    assert_eq!(after, free);
}

#[tokio::test]
async fn what_is_not_as_its_stamp_says_is_told() {
    let place = Place::new(with_systemd);
    place.write(&agent("one"), ImageInit::Systemd).await;
    let inside = Debugfs { image: &place.image, work: place.work() };
    let breaks = [
        (format!("rm {ENABLED}"), "not enabled"),
        (format!("rm {UNIT}"), "unit is missing"),
        (format!("rm {STAMP}"), "without a stamp"),
    ];
    for (command, told) in breaks {
        inside.change(vec![command]).await.unwrap();
        match place.look().await.agent {
            FoundAgent::Partial(detail) => assert!(detail.contains(told), "{detail}"),
            other => panic!("{other:?}"),
        }
    }
    let stamp = place.write(&agent("one"), ImageInit::Systemd).await;
    fs::write(place.work().join("other"), "no agent").unwrap();
    let replace =
        [format!("rm {AGENT}"), "cd /usr/local/bin".to_owned(), "write other fc-agent".to_owned()];
    inside.change(replace.to_vec()).await.unwrap();
    assert!(matches!(place.look().await.agent, FoundAgent::Partial(_)));
    assert_eq!(place.write(&agent("one"), ImageInit::Systemd).await, stamp);
}

#[tokio::test]
async fn an_image_without_systemd_gets_no_unit_and_links_are_followed_inside_it() {
    let place = Place::new(|root| {
        fs::create_dir_all(root.join("var/usrlocal")).unwrap();
        fs::create_dir_all(root.join("usr")).unwrap();
        symlink("/var/usrlocal", root.join("usr/local")).unwrap();
    });
    let init = place.look().await.init;
    assert_eq!(init, ImageInit::Other);
    let stamp = place.write(&agent("one"), init).await;
    assert_eq!(stamp.unit_sha256, None);
    let inside = Debugfs { image: &place.image, work: place.work() };
    let looked = ["/var/usrlocal/bin/fc-agent", "/usr/local", UNIT].map(str::to_owned);
    let kinds = inside.kinds(&looked).await.unwrap();
    assert_eq!(kinds, [(looked[0].clone(), Kind::File), (looked[1].clone(), Kind::Link)].into());
}

#[tokio::test]
async fn what_does_not_fit_is_an_error_and_never_half_an_agent() {
    let place = Place::new(with_systemd);
    let large = Agent { bytes: vec![7; 20 << 20], ..agent("one") };
    let error = write(&place.image, place.work(), &large, ImageInit::Systemd).await.unwrap_err();
    assert!(matches!(error, ImageError::AgentNotInstalled { .. }), "{error}");
    let in_the_way = Place::new(|root| {
        fs::create_dir_all(root.join("usr/local/bin/fc-agent")).unwrap();
    });
    let error = write(&in_the_way.image, in_the_way.work(), &agent("one"), ImageInit::Other).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("in the way"), "{error}");
}

#[test]
fn versions_are_compared_by_their_numbers() {
    assert!(is_newer("0.10.0", "0.9.1") && is_newer("1.0.1", "1.0"));
    assert!(!is_newer("1.2.0", "1.2.0") && !is_newer("1.2.0-rc.1", "1.2.0"));
}
