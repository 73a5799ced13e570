//! Pulls images of registries (OCI distribution specification 1.1), through the cache.
//!
//! Mirrors are asked first, in order; the registry itself comes last. Layers come several at a time,
//! each goes on where it was broken off, and nothing is used before its digest is checked. Registries
//! on this host's loopback are spoken to in plain HTTP, all others over TLS.

use super::{
    Bytes, Image, StoredLayer,
    access::{Mirror, RegistryAccess},
    auth::{self, Login},
    cache::{BlobCache, Part, Slot},
    local,
    manifest::{self, Manifests},
    origin::ImageReference,
    spec::{Config, Descriptor, ImageManifest, MAX_DOCUMENT_BYTES, Manifest, unusable},
    tls::install_tls,
};
use crate::{
    error::{ImageError, OnPath, Result},
    progress::Progress,
};
use aetherium_model::finding::Finding;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use oci_client::{
    Client, Reference, RegistryOperation,
    client::{BlobResponse, ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    secrets::RegistryAuth,
};
use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

/// Layers that come at once.
const PARALLEL: usize = 4;
/// How often a download may break off without having brought anything.
pub(super) const FRUITLESS_TRIES: u32 = 4;
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(200);
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// The longest silence of a registry.
const READ_DEADLINE: Duration = Duration::from_secs(30);
/// How long a blob that another process downloads is waited for.
const BLOB_PATIENCE: Duration = Duration::from_secs(1800);
const MAX_INDEXES: usize = 4;
const USER_AGENT: &str = concat!("aetherium/", env!("CARGO_PKG_VERSION"));

/// Gets an image from its mirrors or its registry.
pub(super) async fn pull(
    reference: &ImageReference,
    access: &RegistryAccess,
    progress: &dyn Progress,
) -> Result<Image> {
    for (host, mirror) in mirrored(reference, access) {
        match pull_from(mirror, access, progress).await {
            Ok(image) => return Ok(image),
            Err(error) => progress.warn(&passed_over(&host, reference, &error)),
        }
    }
    pull_from(reference.0.clone(), access, progress).await
}

/// Where else an image may be, in the order in which to ask.
pub(super) fn mirrored(
    reference: &ImageReference,
    access: &RegistryAccess,
) -> Vec<(String, Reference)> {
    let own = &reference.0;
    let fitting = access.mirrors.iter().filter(|it| it.registry == own.registry());
    let at = |mirror: &Mirror| {
        let mut mirrored = own.clone();
        mirrored.set_mirror_registry(mirror.host.clone());
        (mirror.host.clone(), mirrored)
    };
    fitting.map(at).collect()
}

/// Tells of a mirror that did not help.
pub(super) fn passed_over(host: &str, reference: &ImageReference, error: &ImageError) -> Finding {
    Finding::warn(
        "template.image.mirror",
        format!("mirror {host} did not give {reference}: {error}"),
        "the registry itself is asked instead, which may be slower or count against a limit",
        "leave the mirror out, or see that it has the image",
    )
}

async fn pull_from(
    reference: Reference,
    access: &RegistryAccess,
    progress: &dyn Progress,
) -> Result<Image> {
    progress.step(&format!("asking {} for {}", reference.resolve_registry(), reference.whole()));
    let source = Source::new(reference, access, progress)?;
    let manifest = source.manifest().await?;
    let config = source.config(&manifest).await?;
    let wanted: Vec<_> = local::named(&manifest, &config).collect();
    let bytes = wanted.iter().map(|(_, descriptor)| descriptor.size).sum();
    progress.total("downloading layers", Some(bytes));
    // Boxed, each by itself: else the compiler cannot tell that the whole may move between threads.
    let source = &source;
    let downloads: Vec<BoxFuture<'_, Result<StoredLayer>>> = wanted
        .into_iter()
        .map(|(layer, descriptor)| {
            async move {
                let bytes = Bytes::Held(source.blob(descriptor, progress).await?);
                Ok(StoredLayer { layer, bytes, size: descriptor.size })
            }
            .boxed()
        })
        .collect();
    let layers = stream::iter(downloads).buffered(PARALLEL).try_collect().await?;
    progress.done();
    Ok(Image { origin: source.name.clone(), defaults: Some(config.defaults()), layers })
}

/// One image at one host.
pub(super) struct Source<'a> {
    pub(super) client: Client,
    /// For manifests.
    /// For what `oci-client` does not do.
    pub(super) http: reqwest::Client,
    pub(super) reference: Reference,
    pub(super) auth: RegistryAuth,
    cache: &'a BlobCache,
    name: String,
}

impl<'a> Source<'a> {
    pub(super) fn new(
        reference: Reference,
        access: &'a RegistryAccess,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let host = reference.resolve_registry().to_owned();
        let plain = if is_loopback(&host) { vec![host.clone()] } else { Vec::new() };
        install_tls();
        let client = Client::new(ClientConfig {
            protocol: ClientProtocol::HttpsExcept(plain),
            connect_timeout: Some(CONNECT_DEADLINE),
            read_timeout: Some(READ_DEADLINE),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        });
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_DEADLINE)
            .read_timeout(READ_DEADLINE)
            .user_agent(USER_AGENT)
            .build()
            .map_err(|error| ImageError::RegistryFailed {
                host: host.clone(),
                image: reference.whole(),
                detail: with_causes(&error),
            })?;
        let mirrored = host != own_host(&reference);
        let auth = match &access.credentials {
            Some(given) if !mirrored => given.into(),
            _ => stored_login(access.docker_config.as_deref(), &host, progress)?,
        };
        let name = reference.whole();
        Ok(Self { client, http, reference, auth, cache: &access.cache, name })
    }

    pub(super) fn host(&self) -> &str {
        self.reference.resolve_registry()
    }

    async fn manifest(&self) -> Result<ImageManifest> {
        self.in_time(self.chosen_manifest()).await
    }

    /// What the reference leads to, unread.
    pub(super) async fn manifest_bytes(&self) -> Result<Vec<u8>> {
        self.in_time(async { self.manifests().await?.get(&self.reference).await }).await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let late = |_| self.late(manifest::DEADLINE);
        tokio::time::timeout(manifest::DEADLINE, work).await.map_err(late)?
    }

    async fn manifests(&self) -> Result<Manifests<'_>> {
        let granted = self.client.auth(&self.reference, &self.auth, RegistryOperation::Pull).await;
        Ok(Manifests {
            http: &self.http,
            plain: is_loopback(self.host()),
            auth: match granted.map_err(|error| self.failed(&error))? {
                Some(token) => RegistryAuth::Bearer(token),
                None => self.auth.clone(),
            },
            name: &self.name,
        })
    }

    async fn chosen_manifest(&self) -> Result<ImageManifest> {
        let manifests = self.manifests().await?;
        let mut reference = self.reference.clone();
        for _ in 0..MAX_INDEXES {
            let bytes = manifests.get(&reference).await?;
            match Manifest::parse(&self.name, &bytes)? {
                Manifest::Image(manifest) => return Ok(manifest),
                Manifest::Index(index) => {
                    let chosen = index.choose(&self.name, None)?;
                    reference = reference.clone_with_digest(chosen.digest.to_string());
                }
            }
        }
        Err(unusable(&self.name, format!("{MAX_INDEXES} indexes lead from one to the next")))
    }

    async fn config(&self, manifest: &ImageManifest) -> Result<Config> {
        if manifest.config.size > MAX_DOCUMENT_BYTES {
            let size = manifest.config.size;
            return Err(unusable(&self.name, format!("its configuration has {size} bytes")));
        }
        let mut bytes = Vec::new();
        let mut file = self.blob(&manifest.config, &crate::Silent).await?;
        file.read_to_end(&mut bytes).on("read", Path::new("configuration"))?;
        Config::parse(&self.name, &bytes, manifest.layers.len())
    }

    /// A blob, from the cache or the host.
    pub(super) async fn blob(&self, wanted: &Descriptor, progress: &dyn Progress) -> Result<File> {
        let part = match self.cache.slot(&wanted.digest, BLOB_PATIENCE).await? {
            Slot::Here(file) => {
                progress.advance(wanted.size);
                return Ok(file);
            }
            Slot::Wanted(part) => part,
        };
        let part = self.download(wanted, part, progress).await?;
        self.cache.keep(part, &wanted.digest)
    }

    /// Goes on with a download until all of it is there, or nothing more comes.
    async fn download(
        &self,
        wanted: &Descriptor,
        mut part: Part,
        progress: &dyn Progress,
    ) -> Result<Part> {
        let mut have = part.len()?;
        if have > wanted.size {
            part.clear()?;
            have = 0;
        }
        progress.advance(have);
        let mut fruitless = 0;
        while have < wanted.size {
            let broken = self.some_more(wanted, &mut part, have, progress).await;
            let came = part.len()?;
            fruitless = if came > have { 0 } else { fruitless + 1 };
            have = came;
            match broken {
                Err(error) if fruitless >= FRUITLESS_TRIES || !is_passing(&error) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(digest = %wanted.digest, have, %error, "a download broke off");
                    tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(fruitless)).await;
                }
                Ok(()) => {}
            }
        }
        Ok(part)
    }

    async fn some_more(
        &self,
        wanted: &Descriptor,
        part: &mut Part,
        have: u64,
        progress: &dyn Progress,
    ) -> Result<()> {
        let digest = wanted.digest.to_string();
        self.client.store_auth_if_needed(self.host(), &self.auth).await;
        let answer = self
            .client
            .pull_blob_stream_partial(&self.reference, digest.as_str(), have, None)
            .await
            .map_err(|error| self.failed(&error))?;
        let (mut stream, mut skip) = match answer {
            BlobResponse::Partial(stream) => (stream, 0),
            // A host that sends all of it again: what is there already is passed over.
            BlobResponse::Full(stream) => (stream, have),
        };
        let mut have = have;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| self.broke_off(&digest, &error))?;
            let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= passed as u64;
            let new = &chunk[passed..];
            have += new.len() as u64;
            if have > wanted.size {
                part.clear()?;
                let detail = format!("blob {digest} is longer than the {} bytes said", wanted.size);
                return Err(unusable(&self.name, detail));
            }
            part.append(new)?;
            progress.advance(new.len() as u64);
        }
        if have < wanted.size {
            let early = io::Error::new(io::ErrorKind::UnexpectedEof, "it ended early");
            return Err(self.broke_off(&digest, &early));
        }
        Ok(())
    }

    fn late(&self, deadline: Duration) -> ImageError {
        let (host, image) = (self.host().to_owned(), self.name.clone());
        let detail = format!("its manifest did not come within {deadline:?}");
        ImageError::RegistryFailed { host, image, detail }
    }

    fn broke_off(&self, what: &str, error: &io::Error) -> ImageError {
        let detail = format!("{what}: {}", with_causes(error));
        ImageError::RegistryFailed {
            host: self.host().to_owned(),
            image: self.name.clone(),
            detail,
        }
    }

    pub(super) fn failed(&self, error: &OciDistributionError) -> ImageError {
        let (host, image) = (self.host().to_owned(), self.name.clone());
        match error {
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_) => {
                ImageError::RegistryDenied { host, image }
            }
            OciDistributionError::ServerError { code: 401 | 403, .. } => {
                ImageError::RegistryDenied { host, image }
            }
            OciDistributionError::RequestError(error)
                if error.status().is_some_and(|it| matches!(it.as_u16(), 401 | 403)) =>
            {
                ImageError::RegistryDenied { host, image }
            }
            OciDistributionError::ImageManifestNotFoundError(_)
            | OciDistributionError::ServerError { code: 404, .. } => {
                ImageError::ImageMissing { host, image }
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                use oci_client::errors::OciErrorCode as Code;
                match envelope.errors.first().map(|it| &it.code) {
                    Some(Code::Unauthorized | Code::Denied) => {
                        ImageError::RegistryDenied { host, image }
                    }
                    Some(Code::ManifestUnknown | Code::NameUnknown | Code::NotFound) => {
                        ImageError::ImageMissing { host, image }
                    }
                    _ => ImageError::RegistryFailed { host, image, detail: with_causes(error) },
                }
            }
            OciDistributionError::DigestError(wrong) => unusable(
                &image,
                format!("{host} gave another manifest than was asked for: {wrong}"),
            ),
            _ => ImageError::RegistryFailed { host, image, detail: with_causes(error) },
        }
    }
}

/// Whether trying again may help.
const fn is_passing(error: &ImageError) -> bool {
    matches!(error, ImageError::RegistryFailed { .. })
}

fn stored_login(
    config: Option<&Path>,
    host: &str,
    progress: &dyn Progress,
) -> Result<RegistryAuth> {
    let Some(path) = config else { return Ok(RegistryAuth::Anonymous) };
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(RegistryAuth::Anonymous);
        }
        other => other.on("read", path)?,
    };
    let login = auth::login(&text, host)
        .map_err(|detail| io::Error::new(io::ErrorKind::InvalidData, detail))
        .on("use the registry logins in", path)?;
    match login {
        Login::Known(auth) => Ok(auth),
        Login::None => Ok(RegistryAuth::Anonymous),
        Login::Helper(helper) => {
            progress.warn(&Finding::warn(
                "template.image.login",
                format!(
                    "{} keeps the login of {host} in docker-credential-{helper}",
                    path.display()
                ),
                "credential helpers are not asked, so the registry is used without a login",
                "set AETHERIUM_REGISTRY_USERNAME and AETHERIUM_REGISTRY_PASSWORD if it needs one",
            ));
            Ok(RegistryAuth::Anonymous)
        }
    }
}

/// The host that is asked where no mirror is.
fn own_host(reference: &Reference) -> String {
    let plain = Reference::with_tag(
        reference.registry().to_owned(),
        reference.repository().to_owned(),
        String::new(),
    );
    plain.resolve_registry().to_owned()
}

pub(super) fn is_loopback(host: &str) -> bool {
    let name = host.strip_prefix('[').and_then(|it| it.split_once(']')).map_or_else(
        || host.rsplit_once(':').map_or(host, |(name, _)| name),
        |(address, _)| address,
    );
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|it| it.is_loopback())
}

/// An error with what caused it: the outermost alone says little.
pub(super) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_hosts_own_registries_are_spoken_to_in_plain_text() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["docker.io", "localhost.example:5000", "10.0.0.1:5000", "128.0.0.1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
