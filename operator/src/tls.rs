//! Certificates: a CA per cluster, kept, and a server certificate, issued anew in time or when its names change.

use crate::{
    apply::{apply, unless_gone},
    context::Context,
    error::Error,
    resources::Names,
};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use time::{Duration, OffsetDateTime};
use x509_parser::{extensions::GeneralName, pem::parse_x509_pem};

const CA_LIFE: Duration = Duration::days(3650);
const SERVER_LIFE: Duration = Duration::days(365);
/// A server certificate with less left than this is issued anew.
const RENEW: Duration = Duration::days(30);

/// Certificates in PEM.
#[derive(Clone)]
pub struct Certificates {
    pub ca: String,
    ca_key: String,
    certificate: String,
    key: String,
}

impl Certificates {
    /// Digest of what the nodes serve.
    pub fn hash(&self) -> String {
        hex::encode(Sha256::digest(&self.certificate))[..16].to_owned()
    }
}

/// Reads the certificates, and makes or renews what is missing, old, or for other names.
pub async fn ensure(context: &Context, names: &Names) -> Result<Certificates, Error> {
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &names.namespace);
    let name = names.tls();
    let found = secrets
        .get_opt(&name)
        .await
        .map_err(Error::api(format!("read Secret {name}")))?;
    let wanted = dns_names(names);
    let now = OffsetDateTime::now_utc();
    let found = found.as_ref().and_then(read);
    if let Some(found) = &found
        && serves(&found.certificate, &wanted, now + RENEW)
    {
        return Ok(found.clone());
    }
    let made = issue(found, names, wanted, now)?;
    apply(
        &context.client,
        &json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": names.namespace, "labels": names.labels()},
            "stringData": {
                "tls.crt": made.certificate, "tls.key": made.key, "ca.crt": made.ca, "ca.key": made.ca_key,
            },
        }),
    )
    .await?;
    Ok(made)
}

/// Removes the certificates.
pub async fn remove(context: &Context, names: &Names) -> Result<(), Error> {
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &names.namespace);
    let deleted = secrets.delete(&names.tls(), &Default::default()).await;
    unless_gone(deleted).map_err(Error::api(format!("delete Secret {}", names.tls())))?;
    Ok(())
}

fn dns_names(names: &Names) -> BTreeSet<String> {
    let (name, namespace, nodes) = (&names.cluster, &names.namespace, names.nodes());
    [
        name.clone(),
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.svc.cluster.local"),
        format!("*.{nodes}.{namespace}.svc"),
        format!("*.{nodes}.{namespace}.svc.cluster.local"),
        "localhost".to_owned(),
    ]
    .into()
}

fn read(secret: &Secret) -> Option<Certificates> {
    let text = |key: &str| {
        let bytes = &secret.data.as_ref()?.get(key)?.0;
        String::from_utf8(bytes.clone()).ok()
    };
    Some(Certificates {
        ca: text("ca.crt")?,
        ca_key: text("ca.key")?,
        certificate: text("tls.crt")?,
        key: text("tls.key")?,
    })
}

/// Whether the certificate is for exactly these names and valid until `until`.
fn serves(pem: &str, wanted: &BTreeSet<String>, until: OffsetDateTime) -> bool {
    let Ok((_, pem)) = parse_x509_pem(pem.as_bytes()) else {
        return false;
    };
    let Ok(certificate) = pem.parse_x509() else {
        return false;
    };
    let Ok(Some(alternative)) = certificate.subject_alternative_name() else {
        return false;
    };
    let found: BTreeSet<String> = alternative
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect();
    found == *wanted && certificate.validity().not_after.timestamp() > until.unix_timestamp()
}

fn issue(
    old: Option<Certificates>,
    names: &Names,
    wanted: BTreeSet<String>,
    now: OffsetDateTime,
) -> Result<Certificates, Error> {
    // Clients trust the CA, so it stays as long as it can be used.
    let (ca, ca_key) = match old {
        Some(old) if KeyPair::from_pem(&old.ca_key).is_ok() && lives(&old.ca, now + SERVER_LIFE) => {
            (old.ca, old.ca_key)
        }
        _ => authority(names, now)?,
    };
    let issuer = Issuer::from_ca_cert_pem(&ca, KeyPair::from_pem(&ca_key)?)?;
    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(wanted.into_iter().collect::<Vec<_>>())?;
    server.distinguished_name = common_name(&names.cluster);
    server.not_before = now - Duration::hours(1);
    server.not_after = now + SERVER_LIFE;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let certificate = server.signed_by(&key, &issuer)?;
    Ok(Certificates {
        ca,
        ca_key,
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn lives(pem: &str, until: OffsetDateTime) -> bool {
    let Ok((_, pem)) = parse_x509_pem(pem.as_bytes()) else {
        return false;
    };
    pem.parse_x509()
        .is_ok_and(|ca| ca.validity().not_after.timestamp() > until.unix_timestamp())
}

fn authority(names: &Names, now: OffsetDateTime) -> Result<(String, String), Error> {
    let key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.distinguished_name = common_name(&format!("Penstock CA of {}/{}", names.namespace, names.cluster));
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.not_before = now - Duration::hours(1);
    ca.not_after = now + CA_LIFE;
    Ok((ca.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    // RFC 5280 allows 64 characters.
    subject.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    subject
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(cluster: &str) -> Names {
        Names {
            namespace: "default".into(),
            cluster: cluster.into(),
            owner: json!([]),
        }
    }

    #[test]
    fn a_certificate_is_kept_while_it_is_valid_for_the_names() {
        let now = OffsetDateTime::now_utc();
        let wanted = dns_names(&names("demo"));
        let made = issue(None, &names("demo"), wanted.clone(), now).unwrap();
        assert!(serves(&made.certificate, &wanted, now + RENEW));
        assert!(
            !serves(&made.certificate, &wanted, now + SERVER_LIFE),
            "it would be used after its end"
        );
        assert!(
            !serves(&made.certificate, &dns_names(&names("other")), now),
            "it is for other names"
        );
        assert!(!serves("not a certificate", &wanted, now));
    }

    #[test]
    fn renewing_keeps_the_ca_that_clients_trust() {
        let now = OffsetDateTime::now_utc();
        let wanted = dns_names(&names("demo"));
        let old = issue(None, &names("demo"), wanted.clone(), now).unwrap();
        let new = issue(Some(old.clone()), &names("demo"), wanted.clone(), now).unwrap();
        assert_eq!(old.ca, new.ca);
        assert_ne!(old.certificate, new.certificate);
        let late = issue(Some(old.clone()), &names("demo"), wanted, now + CA_LIFE).unwrap();
        assert_ne!(old.ca, late.ca, "a CA that ends before its certificate was kept");
    }
}
