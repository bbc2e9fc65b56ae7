//! A URL as it was typed, and where that leads: addresses, the `Host` header, the path before `/v1`.

use std::net::SocketAddr;

use hyper::Uri;
use hyper::header::HeaderValue;

use crate::error::Error;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Without the brackets of an IPv6 address.
    name: String,
    port: u16,
    /// As the `Host` header has it.
    pub host: HeaderValue,
    /// What precedes `/v1` in paths, without a slash at its end.
    pub prefix: String,
}

impl Target {
    /// Reads `http://HOST[:PORT][/PREFIX][/v1]`.
    ///
    /// # Errors
    /// Wrong usage, with what is wrong.
    pub fn parse(url: &str) -> Result<Target, Error> {
        let wrong = |cause: &str, fix: &str| Error::Usage {
            what: format!("--url {url}"),
            cause: cause.to_owned(),
            fix: fix.to_owned(),
        };
        let write = "write it out, such as `--url http://127.0.0.1:8080`";
        let uri: Uri = url.parse().map_err(|_| wrong("it is not a URL", write))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                let cause = "only plain HTTP is spoken, so that encryption is not in the figures";
                return Err(wrong(cause, "give the http:// address of the server itself"));
            }
            _ => return Err(wrong("it does not begin with http://", write)),
        }
        let authority = uri.authority().filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or_else(|| wrong("it names no host", write))?;
        if authority.as_str().contains('@') {
            return Err(wrong("user names in URLs are not sent", "give a key with --api-key"));
        }
        let host = HeaderValue::from_str(authority.as_str());
        let prefix = uri.path().trim_end_matches('/');
        Ok(Target {
            name: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            host: host.map_err(|_| wrong("its host cannot be sent", write))?,
            prefix: prefix.strip_suffix("/v1").unwrap_or(prefix).trim_end_matches('/').to_owned(),
        })
    }

    /// Its addresses, asked for once: looking names up is no part of what is measured.
    pub async fn addresses(&self) -> std::io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((self.name.as_str(), self.port)).await?.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lead_somewhere() {
        let check = |url: &str, name: &str, port: u16, host: &str, prefix: &str| {
            let target = Target::parse(url).expect("a good URL");
            assert_eq!((target.name.as_str(), target.port), (name, port), "{url}");
            assert_eq!((target.host.to_str().ok(), target.prefix.as_str()), (Some(host), prefix), "{url}");
        };
        check("http://localhost:8080", "localhost", 8080, "localhost:8080", "");
        check("http://localhost", "localhost", 80, "localhost", "");
        check("http://a.example/v1", "a.example", 80, "a.example", "");
        check("http://a.example/v1/", "a.example", 80, "a.example", "");
        check("http://a.example:1/models/x/v1", "a.example", 1, "a.example:1", "/models/x");
        check("http://[::1]:80/llm/", "::1", 80, "[::1]:80", "/llm");
    }

    #[test]
    fn others_are_refused_with_a_reason() {
        let check = |url: &str, words: &str| {
            let error = Target::parse(url).expect_err("it is refused").for_people();
            assert!(error.contains(words) && error.contains("\n  fix: "), "{error}");
        };
        check("https://api.example/v1", "only plain HTTP");
        check("localhost:8080", "http://");
        check("ftp://localhost", "does not begin with http://");
        check("http://", "it is not a URL");
        check("http://user:word@localhost", "--api-key");
        check("/v1", "does not begin with http://");
        check("", "it is not a URL");
    }
}
