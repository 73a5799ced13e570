//! Finding disks by what they carry.
//!
//! Names such as `vda` depend on the machine and the order of probing, so they are only reported,
//! never looked for.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use aetherium_agent_proto::config::{Disk, DiskSelector};
use aetherium_agent_proto::console::SeenDisk;

use super::{ext4, poll};

/// The block devices seen so far.
#[derive(Default)]
pub(super) struct Disks {
    by_name: BTreeMap<String, Known>,
}

struct Known {
    names: Option<ext4::Names>,
    serial: String,
}

impl Disks {
    /// Waits for the disk of that mark and returns its device path.
    pub(super) fn find(&mut self, disk: &Disk, deadline: Duration) -> Option<String> {
        poll(deadline, || {
            self.look();
            self.matching(&disk.by)
        })
    }

    /// What there is, for a report.
    pub(super) fn seen(&self) -> Vec<SeenDisk> {
        let seen = self.by_name.iter().map(|(name, known)| match &known.names {
            Some(names) => SeenDisk {
                name: name.clone(),
                fstype: "ext4".to_owned(),
                label: names.label.clone(),
                uuid: names.uuid.clone(),
            },
            None => SeenDisk { name: name.clone(), ..SeenDisk::default() },
        });
        seen.collect()
    }

    fn matching(&self, selector: &DiskSelector) -> Option<String> {
        let names = |known: &Known| known.names.clone();
        let found = self.by_name.iter().find(|(_, known)| match selector {
            DiskSelector::Uuid(uuid) => {
                names(known).is_some_and(|it| it.uuid.eq_ignore_ascii_case(uuid))
            }
            DiskSelector::Label(label) => names(known).is_some_and(|it| it.label == *label),
            DiskSelector::Serial(serial) => !serial.is_empty() && known.serial == *serial,
        });
        found.map(|(name, _)| format!("/dev/{name}"))
    }

    /// Reads devices that were not there before. A device's content does not change meanwhile.
    fn look(&mut self) {
        let Ok(entries) = fs::read_dir("/sys/class/block") else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_virtual =
                ["loop", "ram", "zram", "fd", "sr"].iter().any(|it| name.starts_with(it));
            if is_virtual || self.by_name.contains_key(&name) {
                continue;
            }
            // The node may lag behind sysfs; the next look finds it.
            let Ok(device) = File::open(format!("/dev/{name}")) else { continue };
            let mut block = [0; ext4::LEN];
            let names = match device.read_exact_at(&mut block, ext4::OFFSET) {
                Ok(()) => ext4::names(&block),
                Err(_) => None,
            };
            let serial = fs::read_to_string(format!("/sys/class/block/{name}/serial"));
            let serial = serial.unwrap_or_default().trim().to_owned();
            self.by_name.insert(name, Known { names, serial });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks() -> Disks {
        let names = ext4::Names { uuid: "aa-bb".into(), label: "root".into() };
        let by_name = BTreeMap::from([
            ("vda".to_owned(), Known { names: None, serial: "scratch".into() }),
            ("vdb".to_owned(), Known { names: Some(names), serial: String::new() }),
        ]);
        Disks { by_name }
    }

    #[test]
    fn a_disk_is_found_by_any_of_its_marks_wherever_it_is() {
        let find = |selector| disks().matching(&selector);
        assert_eq!(find(DiskSelector::Uuid("AA-BB".into())).unwrap(), "/dev/vdb");
        assert_eq!(find(DiskSelector::Label("root".into())).unwrap(), "/dev/vdb");
        assert_eq!(find(DiskSelector::Serial("scratch".into())).unwrap(), "/dev/vda");
        assert_eq!(find(DiskSelector::Serial(String::new())), None);
    }

    #[test]
    fn a_report_names_disks_without_a_known_file_system_too() {
        let seen = disks().seen();
        assert_eq!((seen[0].name.as_str(), seen[0].fstype.as_str()), ("vda", ""));
        assert_eq!((seen[1].name.as_str(), seen[1].label.as_str()), ("vdb", "root"));
    }
}
