//! A route's termination: what it was told, what that came to when the files were last read, and reading them again.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use tracing::{error, info};

use super::{Certificates, ServerTls, TlsError, client};
use crate::config::{CertificateSource, ClientTls, Routes, TerminationSettings};

/// TLS that ends at pgusher, on one route.
pub struct Termination {
    settings: TerminationSettings,
    material: RwLock<Arc<Material>>,
}

/// What the files held when they were last read.
pub struct Material {
    /// What clients are shown, and asked for.
    pub certificates: Arc<Certificates>,
    /// How servers are spoken to.
    pub server: ServerTls,
}

impl fmt::Debug for Termination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Termination")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Termination {
    /// Reads everything that the settings name.
    ///
    /// # Errors
    /// [`TlsError`] names the setting.
    pub fn load(settings: TerminationSettings) -> Result<Self, TlsError> {
        let material = RwLock::new(Arc::new(Material::read(&settings)?));
        Ok(Self { settings, material })
    }

    /// Reads everything again. What cannot be used is not: the old stays in place.
    ///
    /// # Errors
    /// [`TlsError`] names the setting.
    pub fn reload(&self) -> Result<(), TlsError> {
        let material = Arc::new(Material::read(&self.settings)?);
        *self
            .material
            .write()
            .unwrap_or_else(PoisonError::into_inner) = material;
        Ok(())
    }

    /// What was read last; a session keeps what it began with.
    pub fn material(&self) -> Arc<Material> {
        Arc::clone(&self.material.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether clients without TLS are admitted.
    pub fn client_tls(&self) -> ClientTls {
        self.settings.client_tls
    }
}

impl Material {
    fn read(settings: &TerminationSettings) -> Result<Self, TlsError> {
        let verifier =
            client::verifier(settings.client_certificates, settings.client_ca.as_deref())?;
        let certificates = match &settings.source {
            CertificateSource::Files { certificate, key } => {
                Certificates::from_files(certificate, key, verifier)?
            }
            CertificateSource::Authority(directory) => {
                Certificates::from_authority(directory, verifier)?
            }
        };
        Ok(Self {
            certificates: Arc::new(certificates),
            server: ServerTls::load(&settings.server)?,
        })
    }
}

/// Reads every route's certificates again.
pub fn reload(routes: &Routes) {
    for (route, termination) in routes.terminations() {
        match termination.reload() {
            Ok(()) => info!(route, "certificates reloaded"),
            Err(error) => error!(
                route,
                %error,
                "certificates not reloaded; the old ones stay in use"
            ),
        }
    }
}
