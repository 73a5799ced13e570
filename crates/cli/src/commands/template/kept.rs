//! The templates that are here: what each is, who uses it, what it is called, and what can go.

use super::{mib, open};
use crate::{args::Args, datadir::DataDir, error::CliError, print, progress::Bars};
use aetherium_image::{Collected, Keep, Listed, Removal, is_derived};
use aetherium_model::{
    Fault, TemplateRef,
    boot_test::BootTest,
    finding::{Finding, Verdict},
    template_ref::Version,
};
use serde::Serialize;
use std::{collections::BTreeMap, path::PathBuf};

pub(super) fn list(args: &Args, data: &DataDir, all: bool) -> Result<(), CliError> {
    let mut entries = open(data)?.entries().map_err(Fault::from)?;
    let before = entries.len();
    entries.retain(|it| all || !is_derived(&it.template.name));
    let hidden = before - entries.len();
    if args.json {
        return print::json(&entries);
    }
    let rows: Vec<_> = entries.iter().map(row).collect();
    let headings =
        ["TEMPLATE", "DIGEST", "SIZE", "ON DISK", "CREATED", "USED BY", "VERIFIED", "BOOT TEST"];
    print::table(&headings, &rows);
    if hidden > 0 {
        eprintln!("and {hidden} that were made for workspaces' tools (--all)");
    }
    let own = entries.iter().filter(|it| !is_derived(&it.template.name));
    let never = own.filter(|it| !it.boot_test.as_ref().is_some_and(BootTest::passed));
    let names: Vec<_> = never.filter_map(|it| Some(it.reference().ok()?.to_string())).collect();
    if !names.is_empty() {
        eprintln!("not known to boot: {} (aetherium template test NAME)", names.join(", "));
    }
    Ok(())
}

fn row(entry: &Listed) -> Vec<String> {
    let template = &entry.template;
    let called = match &entry.tag {
        Some(tag) => TemplateRef::tagged(template.name.clone(), tag.clone()).to_string(),
        None => format!("({}, untagged)", template.name),
    };
    vec![
        called,
        template.digest.chars().take(12).collect(),
        mib(entry.size_bytes),
        mib(entry.disk_bytes),
        template.created_at.to_string(),
        match entry.used_by.as_slice() {
            [] => "-".to_owned(),
            [one] => one.to_string(),
            many => format!("{} users", many.len()),
        },
        entry.verified_at.map_or_else(|| "no".to_owned(), |at| at.to_string()),
        verdict(entry.boot_test.as_ref()),
    ]
}

/// A boot's verdict in a few words.
fn verdict(test: Option<&BootTest>) -> String {
    match test {
        None => "NEVER PASSED: not tried".to_owned(),
        Some(test) if test.passed() => format!("passed {}", test.at),
        Some(test) => {
            let failed = test.checks.iter().filter(|it| it.verdict == Verdict::Fail);
            let failed: Vec<_> = failed.map(|it| it.check.as_str()).collect();
            format!("FAILED: {}", failed.join(", "))
        }
    }
}

/// All that is known about a template.
#[derive(Serialize)]
struct Inspected {
    #[serde(flatten)]
    entry: Listed,
    /// Where the content of each of its files is, by the file's name.
    paths: BTreeMap<String, PathBuf>,
    /// What reading its files has found; nothing where they were not read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    findings: Vec<Finding>,
}

pub(super) async fn inspect(
    args: &Args,
    data: &DataDir,
    wanted: &TemplateRef,
    verify: bool,
) -> Result<(), CliError> {
    let store = open(data)?;
    let (installed, _) = store.inspect(wanted).map_err(Fault::from)?;
    let mut findings = Vec::new();
    if verify {
        let bars = Bars::new();
        bars.spin("reading the template's files");
        let (store, installed) = (store.clone(), installed.clone());
        let read = tokio::task::spawn_blocking(move || store.verify(&installed)).await;
        bars.clear();
        findings = read.map_err(Fault::internal)?.map_err(Fault::from)?;
    }
    let (_, entry) = store.inspect(wanted).map_err(Fault::from)?;
    let files = installed.manifest.files();
    let paths = files.map(|file| (file.file.clone(), installed.path_of(file))).collect();
    let damaged = findings.iter().any(|it| it.verdict == Verdict::Fail);
    let inspected = Inspected { entry, paths, findings };
    if args.json {
        print::json(&inspected)?;
    } else {
        show(&inspected);
    }
    if damaged {
        let what = format!("template {wanted} is not what was built");
        let fault = Fault::new(aetherium_model::Code::TemplateBroken, what);
        return Err(fault.remedy("build, import or pull it again, replacing it").into());
    }
    Ok(())
}

fn show(inspected: &Inspected) {
    let Inspected { entry, paths, findings } = inspected;
    let template = &entry.template;
    let users: Vec<_> = entry.used_by.iter().map(ToString::to_string).collect();
    let called = entry.reference().map_or_else(|_| template.name.to_string(), |it| it.to_string());
    println!("template   {called}");
    println!("digest     sha256:{}", template.digest);
    println!("created    {}", template.created_at);
    println!("kernel     {}", template.kernel.release);
    println!("root       {}", template.rootfs.origin);
    println!("agent      {}", template.initramfs.agent_version);
    println!("size       {} ({} on disk)", mib(entry.size_bytes), mib(entry.disk_bytes));
    println!(
        "used by    {}",
        if users.is_empty() { "nobody".to_owned() } else { users.join(", ") }
    );
    println!(
        "verified   {}",
        entry.verified_at.map_or_else(|| "no".to_owned(), |at| at.to_string())
    );
    println!("boot test  {}", verdict(entry.boot_test.as_ref()));
    for check in entry.boot_test.iter().flat_map(|test| &test.checks) {
        println!("           {:<18} {}", check.check, check.found);
    }
    for (file, path) in paths {
        println!("file       {file} {}", path.display());
    }
    for finding in findings {
        let mark = if finding.verdict == Verdict::Ok { "ok" } else { "DAMAGED" };
        println!("read       {mark} {}", finding.found);
    }
}

pub(super) fn tag(
    args: &Args,
    data: &DataDir,
    template: &TemplateRef,
    to: &TemplateRef,
) -> Result<(), CliError> {
    let Version::Tag(tag) = &to.version else {
        let not_a_tag = aetherium_image::ImageError::NotATag { template: to.clone() };
        return Err(Fault::from(not_a_tag).into());
    };
    let tagged = open(data)?.tag(template, &to.name, tag).map_err(Fault::from)?;
    if args.json {
        return print::json(&tagged.manifest);
    }
    println!("{to} is sha256:{}", tagged.manifest.digest);
    Ok(())
}

pub(super) fn remove(args: &Args, data: &DataDir, template: &TemplateRef) -> Result<(), CliError> {
    let store = open(data)?;
    let digest = store.get(template).map(|it| it.manifest.digest);
    store.remove(template).map_err(Fault::from)?;
    if args.json {
        let removed = serde_json::json!({ "removed": template, "digest": digest.ok() });
        return print::json(&removed);
    }
    println!("removed {template}; what nothing uses any more goes with `aetherium template gc`");
    Ok(())
}

pub(super) async fn collect(
    args: &Args,
    data: &DataDir,
    keep: Keep,
    removal: Removal,
) -> Result<(), CliError> {
    let store = open(data)?;
    let bars = Bars::new();
    bars.spin("looking for what nothing uses");
    let done = tokio::task::spawn_blocking(move || store.collect(keep, removal)).await;
    bars.clear();
    let collected: Collected = done.map_err(Fault::internal)?.map_err(Fault::from)?;
    if args.json {
        return print::json(&collected);
    }
    let verb = if removal == Removal::Real { "removed" } else { "would remove" };
    for gone in &collected.templates {
        println!("{verb} {} of {}", gone.template, gone.created_at);
    }
    println!(
        "{verb} {} templates and {} files: {}",
        collected.templates.len(),
        collected.files,
        mib(collected.bytes)
    );
    Ok(())
}
