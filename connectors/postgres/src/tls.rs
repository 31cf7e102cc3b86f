//! TLS as `sslmode` and `ca_file` say, one configuration for both kinds of connection.

use std::path::Path;
use std::sync::Arc;

use anabranch_core::{Error, ErrorKind, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use crate::config::{Endpoint, SslMode};

/// The client side of TLS for `endpoint`; of no use with [`SslMode::Disable`].
pub(crate) fn client_config(endpoint: &Endpoint, ca_file: Option<&Path>) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(ErrorKind::Bug, "set up TLS").with_source(error))?;
    let verifier = match (endpoint.ssl, ca_file) {
        (SslMode::Disable | SslMode::Prefer, _) | (SslMode::Require, None) => {
            Verifier { trust: Trust::Anyone, provider }
        }
        // As libpq: with a file of authorities, `require` looks at it.
        (SslMode::VerifyCa, _) | (SslMode::Require, Some(_)) => {
            Verifier { trust: Trust::Issuer(web_pki(ca_file, &provider)?), provider }
        }
        (SslMode::VerifyFull, _) => {
            let verifier = web_pki(ca_file, &provider)?;
            return Ok(builder.with_webpki_verifier(verifier).with_no_client_auth());
        }
    };
    let dangerous = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(dangerous.with_no_client_auth())
}

fn web_pki(
    ca_file: Option<&Path>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let action = || format!("read [source] ca_file {}", path.display());
            let bad = |error| Error::new(ErrorKind::Config, action()).with_source(error);
            for certificate in CertificateDer::pem_file_iter(path).map_err(bad)? {
                roots
                    .add(certificate.map_err(bad)?)
                    .map_err(|error| Error::new(ErrorKind::Config, action()).with_source(error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| {
            Error::new(ErrorKind::Config, "find certificates to trust")
                .with_source(error)
                .with_help("name a file of PEM certificates in [source] ca_file")
        })
}

/// Checks less than rustls does by itself, because `sslmode` asks for less.
#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Trust {
    /// Encryption only: `prefer` and `require`.
    Anyone,
    /// Signed by an authority, whatever name it bears: `verify-ca`.
    Issuer(Arc<WebPkiServerVerifier>),
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Trust::Issuer(verifier) = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        let seen =
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match seen {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
