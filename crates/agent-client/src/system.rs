//! A guest as a machine: `client.system().metrics()`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aetherium_agent_proto::rpc::wire;
use aetherium_agent_proto::system::{MachineIdentity, Metrics, SecretName};

use crate::{AgentClient, AgentError};

/// The machine.
#[derive(Clone)]
pub struct System {
    client: AgentClient,
}

impl System {
    pub(crate) fn new(client: AgentClient) -> Self {
        Self { client }
    }

    /// How busy and how full it is.
    ///
    /// # Errors
    /// Any [`AgentError`] of dialling or calling.
    pub async fn metrics(&self) -> Result<Metrics, AgentError> {
        let connection = self.client.connection().await?;
        let wire = connection.system();
        let answer = wire.metrics(wire::MetricsRequest::default());
        let answer = self.client.unary(&connection, "metrics", answer).await?;
        Ok(answer.into_owned().into())
    }

    /// Sets its clock; how far it was moved, in nanoseconds, forward if positive. Timeouts under
    /// way are not touched by it.
    ///
    /// # Errors
    /// [`AgentError::Refused`] when the agent shares its machine or the guest cannot; any error of
    /// dialling or calling. So for all that follow.
    pub async fn set_clock(&self, to: SystemTime) -> Result<i64, AgentError> {
        let since_epoch = to.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let unix_ns = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
        let request = wire::SetClockRequest { unix_ns, ..wire::SetClockRequest::default() };
        let connection = self.client.connection().await?;
        let wire = connection.system();
        let answer = self.client.unary(&connection, "set_clock", wire.set_clock(request)).await?;
        Ok(answer.into_owned().moved_ns)
    }

    /// Mixes entropy, 32 to 512 random bytes, into its generator and makes it start anew.
    ///
    /// # Errors
    /// As [`System::set_clock`].
    pub async fn reseed(&self, entropy: &[u8]) -> Result<(), AgentError> {
        let request =
            wire::ReseedRequest { entropy: entropy.to_vec(), ..wire::ReseedRequest::default() };
        let connection = self.client.connection().await?;
        let wire = connection.system();
        self.client.unary(&connection, "reseed", wire.reseed(request)).await.map(drop)
    }

    /// Gives it another identity, as after a resume from a snapshot.
    ///
    /// # Errors
    /// As [`System::set_clock`].
    pub async fn set_identity(&self, identity: MachineIdentity) -> Result<(), AgentError> {
        let connection = self.client.connection().await?;
        let wire = connection.system();
        let answer = wire.set_identity(wire::SetIdentityRequest::from(identity));
        self.client.unary(&connection, "set_identity", answer).await.map(drop)
    }

    /// Writes a secret that one user, or root, may read. It exists in the guest's memory alone.
    /// Returns its path.
    ///
    /// # Errors
    /// As [`System::set_clock`].
    pub async fn write_secret(
        &self,
        name: &SecretName,
        data: Vec<u8>,
        user: Option<&str>,
    ) -> Result<PathBuf, AgentError> {
        let request = wire::WriteSecretRequest {
            name: name.as_str().to_owned(),
            data,
            user: user.map(str::to_owned),
            ..wire::WriteSecretRequest::default()
        };
        let connection = self.client.connection().await?;
        let wire = connection.system();
        let answer = wire.write_secret(request);
        let answer = self.client.unary(&connection, "write_secret", answer).await?;
        Ok(answer.into_owned().path.into())
    }

    /// Removes a secret; whether it was there.
    ///
    /// # Errors
    /// As [`System::set_clock`].
    pub async fn remove_secret(&self, name: &SecretName) -> Result<bool, AgentError> {
        let request = wire::RemoveSecretRequest {
            name: name.as_str().to_owned(),
            ..wire::RemoveSecretRequest::default()
        };
        let connection = self.client.connection().await?;
        let wire = connection.system();
        let answer = wire.remove_secret(request);
        let answer = self.client.unary(&connection, "remove_secret", answer).await?;
        Ok(answer.into_owned().removed)
    }
}
