use super::*;
use object::write::{Object as ObjectWriter, SectionKind};
use proptest::prelude::*;
use std::{collections::BTreeMap, fs, path::Path};

/// A relocatable ELF file with a `.modinfo` section, as a kernel module is.
pub(crate) fn module_object(modinfo: &[&str]) -> Vec<u8> {
    let mut object = ObjectWriter::new(
        object::BinaryFormat::Elf,
        object::Architecture::X86_64,
        object::Endianness::Little,
    );
    let section = object.add_section(vec![], b".modinfo".to_vec(), SectionKind::ReadOnlyData);
    let data: Vec<u8> = modinfo.iter().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
    object.append_section_data(section, &data, 1);
    object.write().unwrap()
}

/// A `/lib/modules/<release>` with these files built in, and these modules with their `depends`.
pub(crate) fn write_tree(dir: &Path, release: &str, built_in: &[&str], modules: &[(&str, &str)]) {
    fs::create_dir_all(dir.join("kernel/drivers")).unwrap();
    fs::write(dir.join("modules.builtin"), built_in.join("\n")).unwrap();
    for (name, depends) in modules {
        let vermagic = format!("vermagic={release} SMP ");
        let object = module_object(&[&format!("depends={depends}"), &vermagic]);
        fs::write(dir.join(format!("kernel/drivers/{name}.ko")), object).unwrap();
    }
}

fn loadable(hard: &[&str], soft: &[&str]) -> Provision {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Provision::Loadable(Needs { hard: owned(hard), soft: owned(soft) })
}

fn plan_of(kernel: &[(&str, Provision)], want: &[&'static str]) -> Result<Plan> {
    let kernel: BTreeMap<_, _> = kernel.iter().cloned().collect();
    let want: Vec<_> = want.iter().map(|name| wanted(name, Need::Required, "")).collect();
    plan(&want, |name| Ok(kernel.get(name).cloned().unwrap_or(Provision::Absent)))
}

#[test]
fn what_a_module_needs_is_loaded_before_it_and_once() {
    let kernel = [
        ("virtio_net", loadable(&["net_failover"], &[])),
        ("net_failover", loadable(&["failover"], &[])),
        ("failover", loadable(&[], &[])),
        ("ext4", loadable(&["jbd2", "failover"], &["crc32c", "nowhere"])),
        ("jbd2", Provision::BuiltIn),
        ("crc32c", loadable(&[], &[])),
    ];
    let plan = plan_of(&kernel, &["virtio_net", "ext4"]).unwrap();
    assert_eq!(plan.load_order, ["failover", "net_failover", "virtio_net", "crc32c", "ext4"]);
    assert!(plan.absent.is_empty());
}

#[test]
fn a_circle_of_needs_is_named() {
    let kernel = [("a", loadable(&["b"], &[])), ("b", loadable(&["a"], &[]))];
    let error = plan_of(&kernel, &["a"]).unwrap_err().to_string();
    assert!(error.contains("a → b → a"), "{error}");
}

#[test]
fn a_circle_through_a_soft_need_is_no_obstacle() {
    let kernel = [("a", loadable(&[], &["b"])), ("b", loadable(&["a"], &[]))];
    // b needs a, so it cannot come first, however much a would like it to.
    assert_eq!(plan_of(&kernel, &["b"]).unwrap().load_order, ["a", "b"]);
    assert_eq!(plan_of(&kernel, &["a", "b"]).unwrap().load_order, ["a", "b"]);
}

#[test]
fn a_need_that_the_kernel_does_not_have_is_named_with_who_needs_it() {
    let error = plan_of(&[("a", loadable(&["b"], &[]))], &["a"]).unwrap_err().to_string();
    assert!(error.contains("module a") && error.contains("needs b"), "{error}");
}

#[test]
fn a_kernel_needs_a_disk_a_filesystem_and_one_transport() {
    let absent = |names: &[&str]| -> Vec<_> {
        WANTED.iter().filter(|w| names.contains(&w.module)).copied().collect()
    };
    let verdict = |names: &[&str]| fatal(WANTED, &absent(names)).map(|wanted| wanted.module);
    assert_eq!(verdict(&[]), None);
    assert_eq!(verdict(&["virtio_mmio", "virtio_rng", "vmw_vsock_virtio_transport"]), None);
    assert_eq!(verdict(&["virtio_pci"]), None);
    assert_eq!(verdict(&["virtio_mmio", "virtio_pci"]), Some("virtio_pci"));
    for needed in ["virtio_blk", "ext4", "overlay"] {
        assert_eq!(verdict(&[needed]), Some(needed));
    }
}

const NAMES: [&str; 8] = ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7"];

proptest! {
    /// Modules that need only those with a smaller number: every kernel without circles is one.
    #[test]
    fn every_module_comes_once_and_after_all_it_needs(
        needs in prop::collection::vec(prop::collection::vec(0..8_usize, 0..4), 8),
        built_in in prop::collection::vec(any::<bool>(), 8),
        want in prop::collection::vec(0..8_usize, 1..5),
    ) {
        let needs: Vec<Vec<usize>> = needs
            .into_iter()
            .enumerate()
            .map(|(module, needs)| needs.into_iter().filter(|need| *need < module).collect())
            .collect();
        let kernel: Vec<_> = (0..8)
            .map(|module| {
                let hard: Vec<_> = needs[module].iter().map(|need| NAMES[*need]).collect();
                let provision =
                    if built_in[module] { Provision::BuiltIn } else { loadable(&hard, &[]) };
                (NAMES[module], provision)
            })
            .collect();
        let want: Vec<_> = want.into_iter().map(|module| NAMES[module]).collect();
        let order = plan_of(&kernel, &want).unwrap().load_order;

        let at = |name: &str| order.iter().position(|loaded| loaded == name);
        prop_assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), order.len(), "none twice");
        for name in &want {
            let module = NAMES.iter().position(|n| n == name).unwrap();
            prop_assert_eq!(at(name).is_some(), !built_in[module]);
        }
        for (place, name) in order.iter().enumerate() {
            let module = NAMES.iter().position(|n| n == name).unwrap();
            prop_assert!(!built_in[module]);
            for need in needs[module].iter().filter(|need| !built_in[**need]) {
                prop_assert!(at(NAMES[*need]).is_some_and(|before| before < place));
            }
        }
    }
}
