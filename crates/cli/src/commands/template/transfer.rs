//! Templates from and to elsewhere: files and registries.

use super::{describe, open, registry};
use crate::{
    args::{Args, DEFAULT_BLOB_CACHE_MIB, PlaceArgs},
    datadir::DataDir,
    error::CliError,
    print,
    progress::Bars,
    stdio::{self, Stdout},
};
use aetherium_image::{ImageReference, InstalledTemplate, Mirror, Packing, Placement};
use aetherium_model::{Code, Fault, TemplateRef};
use std::{io::IsTerminal as _, path::Path};

pub(super) async fn export(
    args: &Args,
    data: &DataDir,
    template: &TemplateRef,
    packing: Packing,
    output: Option<&Path>,
) -> Result<(), CliError> {
    let (store, bars) = (open(data)?, Bars::new());
    let exported = match output {
        Some(file) => aetherium_image::export_to(&store, template, packing, file, &bars).await,
        None if std::io::stdout().is_terminal() => {
            let fault = Fault::new(Code::InvalidRequest, "an archive is not for a terminal");
            return Err(fault.remedy("name a file with --output, or send it to one with >").into());
        }
        None => aetherium_image::export(&store, template, packing, Stdout, &bars).await,
    };
    bars.clear();
    if exported.is_err() && stdio::is_unread() {
        return Ok(());
    }
    let exported = exported.map_err(Fault::from)?;
    match output {
        Some(_) if args.json => print::json(&exported.manifest),
        Some(file) => {
            println!("wrote {template} to {}", file.display());
            Ok(())
        }
        // Standard output is the archive.
        None => Ok(()),
    }
}

pub(super) async fn import(
    args: &Args,
    data: &DataDir,
    file: &Path,
    place: &PlaceArgs,
) -> Result<(), CliError> {
    let (store, bars) = (open(data)?, Bars::new());
    let imported = aetherium_image::import(&store, file, &placement(place), &bars).await;
    bars.clear();
    taken(args, &imported.map_err(Fault::from)?)
}

pub(super) async fn push(
    args: &Args,
    data: &DataDir,
    template: &TemplateRef,
    to: &ImageReference,
) -> Result<(), CliError> {
    let (store, bars) = (open(data)?, Bars::new());
    let access = registry(data, &[], DEFAULT_BLOB_CACHE_MIB);
    let pushed = aetherium_image::push(&store, template, to, &access, &bars).await;
    bars.clear();
    let pushed = pushed.map_err(Fault::from)?;
    if args.json {
        return print::json(&pushed);
    }
    println!("pushed {template} to {}", pushed.image);
    println!("  manifest   {}", pushed.manifest);
    println!("  sent       {} bytes; {} bytes were there", pushed.sent_bytes, pushed.there_bytes);
    Ok(())
}

pub(super) async fn pull(
    args: &Args,
    data: &DataDir,
    from: &ImageReference,
    place: &PlaceArgs,
    mirrors: &[Mirror],
) -> Result<(), CliError> {
    let (store, bars) = (open(data)?, Bars::new());
    let access = registry(data, mirrors, DEFAULT_BLOB_CACHE_MIB);
    let pulled = aetherium_image::pull(&store, from, &access, &placement(place), &bars).await;
    bars.clear();
    taken(args, &pulled.map_err(Fault::from)?)
}

fn placement(place: &PlaceArgs) -> Placement {
    Placement { name: place.name.clone(), replace: place.replace }
}

fn taken(args: &Args, template: &InstalledTemplate) -> Result<(), CliError> {
    if args.json {
        return print::json(&template.manifest);
    }
    println!("took in {}", template.manifest.name);
    describe(&template.manifest);
    Ok(())
}
