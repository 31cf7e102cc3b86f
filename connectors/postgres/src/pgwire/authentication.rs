//! Answers what the server asks of a newcomer: SCRAM-SHA-256; MD5; a clear password over TLS only.

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;

use super::frame::WireError;
use super::transport::Encryption;
use crate::config::Endpoint;
use crate::fields::Fields;

/// The client side of one authentication.
pub(super) struct Authentication<'a> {
    endpoint: &'a Endpoint,
    encryption: Encryption,
    scram: Option<ScramSha256>,
}

/// What comes after an authentication message of the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Send this.
    Send(BytesMut),
    /// Nothing to send; more follows.
    Wait,
    /// We are in.
    Done,
}

const OK: u32 = 0;
const CLEARTEXT: u32 = 3;
const MD5: u32 = 5;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

impl<'a> Authentication<'a> {
    pub(super) fn new(endpoint: &'a Endpoint, encryption: Encryption) -> Self {
        Self { endpoint, encryption, scram: None }
    }

    /// Takes the body of an `R` message.
    pub(super) fn answer(&mut self, body: &[u8]) -> Result<Answer, WireError> {
        let mut fields = Fields::new(body);
        let code = fields.u32().ok_or(WireError::Malformed("authentication request"))?;
        match code {
            OK => Ok(Answer::Done),
            CLEARTEXT if self.encryption == Encryption::Tls => {
                let password = self.password()?.to_owned();
                send(|out| frontend::password_message(&password, out))
            }
            CLEARTEXT => Err(refused("it asks for the password in clear, without TLS")),
            MD5 => {
                let salt = fields.rest().first_chunk::<4>();
                let salt = *salt.ok_or(WireError::Malformed("MD5 request"))?;
                let hash = md5_hash(self.endpoint.user.as_bytes(), self.password()?, salt);
                send(|out| frontend::password_message(hash.as_bytes(), out))
            }
            SASL => self.begin_scram(fields),
            SASL_CONTINUE => {
                let scram = self.scram.as_mut().ok_or(WireError::Malformed("SASL order"))?;
                scram.update(fields.rest()).map_err(scram_failed)?;
                let message = scram.message().to_vec();
                send(|out| frontend::sasl_response(&message, out))
            }
            SASL_FINAL => {
                let scram = self.scram.as_mut().ok_or(WireError::Malformed("SASL order"))?;
                scram.finish(fields.rest()).map_err(scram_failed)?;
                Ok(Answer::Wait)
            }
            other => Err(refused(&format!("it asks for authentication method {other}"))),
        }
    }

    fn begin_scram(&mut self, mut mechanisms: Fields<'_>) -> Result<Answer, WireError> {
        let mut offered =
            std::iter::from_fn(|| mechanisms.string().filter(|name| !name.is_empty()));
        if !offered.any(|name| name == SCRAM_SHA_256) {
            return Err(refused("it does not offer SCRAM-SHA-256"));
        }
        let scram = ScramSha256::new(self.password()?, ChannelBinding::unsupported());
        let message = scram.message().to_vec();
        self.scram = Some(scram);
        send(|out| frontend::sasl_initial_response(SCRAM_SHA_256, &message, out))
    }

    fn password(&self) -> Result<&[u8], WireError> {
        match self.endpoint.password.expose() {
            "" => Err(WireError::Authentication("the server asks for a password".to_owned())),
            password => Ok(password.as_bytes()),
        }
    }
}

fn refused(why: &str) -> WireError {
    WireError::Authentication(format!("we do not log in to this server: {why}"))
}

fn scram_failed(error: std::io::Error) -> WireError {
    WireError::Authentication(format!("SCRAM failed: {error}"))
}

fn send(write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> Result<Answer, WireError> {
    let mut out = BytesMut::new();
    write(&mut out)?;
    Ok(Answer::Send(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PostgresConfig;

    fn endpoint(url: &str) -> Endpoint {
        PostgresConfig::new(url, vec![]).endpoint().unwrap()
    }

    #[test]
    fn a_password_never_travels_in_clear() {
        let endpoint = endpoint("postgres://u:p@h/d");
        let ask = CLEARTEXT.to_be_bytes();
        assert!(Authentication::new(&endpoint, Encryption::None).answer(&ask).is_err());
        let answer = Authentication::new(&endpoint, Encryption::Tls).answer(&ask).unwrap();
        assert_eq!(answer, Answer::Send(BytesMut::from(&b"p\0\0\0\x06p\0"[..])));
    }

    #[test]
    fn scram_is_chosen_and_plus_alone_is_not() {
        let endpoint = endpoint("postgres://u:p@h/d");
        let mut authentication = Authentication::new(&endpoint, Encryption::None);
        let both = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        assert!(matches!(authentication.answer(both).unwrap(), Answer::Send(_)));
        assert!(authentication.answer(b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0\0").is_err());
        assert_eq!(authentication.answer(&[0; 4]).unwrap(), Answer::Done);
    }

    #[test]
    fn nonsense_is_an_error() {
        let endpoint = endpoint("postgres://u@h/d");
        for bad in [&b""[..], b"\0\0\0\x05abc", b"\0\0\0\x0b", b"\0\0\0\x0c", b"\0\0\0\x63"] {
            assert!(Authentication::new(&endpoint, Encryption::Tls).answer(bad).is_err());
        }
    }
}
