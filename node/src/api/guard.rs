//! Who may ask: whoever knows the token, from this machine, not from a web page.

use axum::http::{HeaderMap, StatusCode, header};

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The Host header names no loopback address: a rebound DNS name.
    Host,
    /// A web page asked.
    Origin,
    /// The token is missing or wrong.
    Token,
}

impl Refusal {
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::Token => StatusCode::UNAUTHORIZED,
        }
    }

    pub(super) const fn message(self) -> &'static str {
        match self {
            Self::Host => "the Host header must name this machine's loopback address",
            Self::Origin => "web pages may not use this API",
            Self::Token => {
                "the bearer token is missing or wrong: it is in api.json in the data directory"
            }
        }
    }
}

/// Checks a request's headers. The token is compared by its hash, which leaks
/// nothing through time.
pub(super) fn check(headers: &HeaderMap, token_hash: &blake3::Hash) -> Result<(), Refusal> {
    let host = single(headers, header::HOST).ok_or(Refusal::Host)?;
    if !is_loopback(host) {
        return Err(Refusal::Host);
    }
    if headers.contains_key(header::ORIGIN) {
        let origin = single(headers, header::ORIGIN).ok_or(Refusal::Origin)?;
        if origin.strip_prefix("http://") != Some(host) {
            return Err(Refusal::Origin);
        }
    }
    let token = single(headers, header::AUTHORIZATION)
        .and_then(|value| value.strip_prefix("Bearer "))
        .ok_or(Refusal::Token)?;
    // blake3::Hash compares in constant time.
    if blake3::hash(token.as_bytes()) == *token_hash { Ok(()) } else { Err(Refusal::Token) }
}

/// The one value of a header; none when absent, repeated or not text.
fn single(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Whether a Host header names loopback: an address, or `localhost`, with or
/// without a port.
fn is_loopback(host: &str) -> bool {
    if let Ok(addr) = host.parse::<std::net::SocketAddr>() {
        return addr.ip().is_loopback();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let ip = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    ip.map_or(name.eq_ignore_ascii_case("localhost"), |ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn outcome(pairs: &[(header::HeaderName, &str)]) -> Result<(), Refusal> {
        check(&headers(pairs), &blake3::hash(b"secret"))
    }

    const GOOD: (header::HeaderName, &str) = (header::AUTHORIZATION, "Bearer secret");
    const HOST: (header::HeaderName, &str) = (header::HOST, "127.0.0.1:4000");

    #[test]
    fn the_token_must_match_exactly() {
        assert_eq!(outcome(&[HOST, GOOD]), Ok(()));
        for value in ["Bearer secre", "Bearer secrets", "Bearer ", "secret", "Basic secret"] {
            let bad = (header::AUTHORIZATION, value);
            assert_eq!(outcome(&[HOST, bad]), Err(Refusal::Token), "{value}");
        }
        assert_eq!(outcome(&[HOST]), Err(Refusal::Token));
        assert_eq!(outcome(&[HOST, GOOD, GOOD]), Err(Refusal::Token));
    }

    #[test]
    fn a_rebound_name_is_refused_even_with_the_token() {
        for host in ["localhost", "localhost:1", "127.9.0.1:5", "[::1]:80", "[::1]", "127.0.0.1"] {
            assert_eq!(outcome(&[(header::HOST, host), GOOD]), Ok(()), "{host}");
        }
        for host in ["evil.example", "evil.example:80", "10.0.0.1", "localhost.evil.example", ""] {
            assert_eq!(outcome(&[(header::HOST, host), GOOD]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(outcome(&[GOOD]), Err(Refusal::Host));
    }

    #[test]
    fn web_pages_are_refused() {
        for origin in ["http://evil.example", "null", "https://127.0.0.1:4000", "http://127.0.0.1"]
        {
            let bad = (header::ORIGIN, origin);
            assert_eq!(outcome(&[HOST, GOOD, bad]), Err(Refusal::Origin), "{origin}");
        }
        let same = (header::ORIGIN, "http://127.0.0.1:4000");
        assert_eq!(outcome(&[HOST, GOOD, same]), Ok(()));
    }
}
