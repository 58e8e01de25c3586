//! Connections that are encrypted (TLS), where pcproxy is built with them.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::valkey::Binding;

/// Where systems keep the certificates of those that may vouch for servers.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// An encrypted connection.
pub(super) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Encrypts a connection to `host`. The handshake comes with the first bytes.
///
/// # Errors
/// When a file of certificates or a key cannot be used.
pub(super) fn encrypt(stream: TcpStream, host: &str, binding: &Binding) -> io::Result<Stream> {
    let mut roots = RootCertStore::empty();
    let system = || SYSTEM.iter().map(Path::new).find(|path| path.exists());
    let path = binding.ca.as_deref().or_else(system).ok_or_else(|| wrong("no certificates: use --ca"))?;
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(path, error))? {
        // The system may have some that are out of date.
        let _ = roots.add(certificate.map_err(|error| unusable(path, error))?);
    }
    if roots.is_empty() {
        return Err(wrong(&format!("no certificate in {}", path.display())));
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let config = match &binding.certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_file_iter(certificate)
                .and_then(Iterator::collect)
                .map_err(|error| unusable(certificate, error))?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, error))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| unusable(certificate, error))?
        }
    };
    let name = ServerName::try_from(host.to_owned()).map_err(|_| wrong("not the name of a host"))?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(|error| wrong(&error.to_string()))?;
    Ok(StreamOwned::new(connection, stream))
}

fn unusable(path: &Path, error: impl std::fmt::Display) -> io::Error {
    wrong(&format!("{}: {error}", path.display()))
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.to_owned())
}
