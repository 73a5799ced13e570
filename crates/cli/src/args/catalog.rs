//! Where a server's catalogue is.

use crate::error::CliError;
use aetherium_catalog::Catalog;
use aetherium_model::{Code, Fault};
use clap::Args as ClapArgs;
use std::{path::PathBuf, sync::Arc};

/// What a server may give by name, besides what comes with the program.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct CatalogArgs {
    /// A directory with assistants and tools of your own, in `assistants/*.toml` and `tools/*.toml`; of
    /// those with the same name they go before what comes with the program. The same for the whole fleet.
    #[arg(long, env = "AETHERIUM_CATALOG", value_name = "DIR")]
    catalog: Option<PathBuf>,
}

impl CatalogArgs {
    /// The catalogue.
    ///
    /// # Errors
    /// The directory is not there, or one of its files cannot be used.
    pub(crate) fn load(&self) -> Result<Arc<Catalog>, CliError> {
        let Some(directory) = &self.catalog else { return Ok(Arc::new(Catalog::built_in())) };
        let wrong = |problem: String| {
            Fault::new(Code::InvalidRequest, format!("--catalog: {problem}"))
                .remedy("correct the file, or name another directory")
        };
        if !directory.is_dir() {
            return Err(wrong(format!("{} is not a directory", directory.display())).into());
        }
        let read = Catalog::with_directory(directory).map_err(|error| wrong(error.to_string()))?;
        Ok(Arc::new(read))
    }
}
