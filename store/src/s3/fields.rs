//! What several requests, or answers, have by the same names: s3s has a type of its own for each operation.

/// Whether a request grants anything by ACL; `more` are the grants that only some have.
macro_rules! grants {
    ($input:expr $(, $more:ident)*) => {
        $input.grant_full_control.is_some()
            || $input.grant_read.is_some()
            || $input.grant_read_acp.is_some()
            || $input.grant_write_acp.is_some()
            $(|| $input.$more.is_some())*
    };
}

/// Refuses what no request that makes something can ask for; after a semicolon are grants that only some have, and `more` are pairs of what is asked for and what it is called.
macro_rules! refuse_unbuilt {
    ($input:expr $(; $grant:ident)* $(, $more:expr)* $(,)?) => {
        $crate::s3::error::refuse_any(&[
            (
                $input.acl.as_ref().is_some_and(|acl| acl.as_str() != "private"),
                "An ACL other than private",
            ),
            ($crate::s3::fields::grants!($input $(, $grant)*), "Granting access by ACL"),
            $($more,)*
        ])
    };
}

/// Whether a request asks for a storage class that there is not, and what that is called.
macro_rules! other_class {
    ($input:expr) => {
        (
            $input
                .storage_class
                .as_ref()
                .is_some_and(|class| class.as_str() != "STANDARD"),
            "A storage class other than STANDARD",
        )
    };
}

/// The headers that a request gives an object.
macro_rules! headers {
    ($input:expr) => {
        $crate::s3::convert::Written {
            content_type: $input.content_type,
            content_encoding: $input.content_encoding,
            content_disposition: $input.content_disposition,
            content_language: $input.content_language,
            cache_control: $input.cache_control,
            metadata: $input.metadata,
        }
        .into_headers()
    };
}

/// What else a request gives an object.
macro_rules! attributes {
    ($input:expr) => {
        $crate::s3::attributes::Given {
            tagging: $input.tagging,
            mode: $input.object_lock_mode,
            until: $input.object_lock_retain_until_date,
            hold: $input.object_lock_legal_hold_status,
            expires: $input.expires,
            redirect: $input.website_redirect_location,
        }
        .read()
    };
}

/// The checksums that a request, or a part in it, names.
macro_rules! checksums {
    ($named:expr) => {{
        use $crate::engine::Checksum::{Crc32, Crc32c, Crc64nvme, Sha1, Sha256};
        let named = [
            (Crc32, $named.checksum_crc32),
            (Crc32c, $named.checksum_crc32c),
            (Crc64nvme, $named.checksum_crc64nvme),
            (Sha1, $named.checksum_sha1),
            (Sha256, $named.checksum_sha256),
        ];
        let named = named.into_iter().filter_map(|(kind, value)| Some((kind, value?)));
        named.collect::<std::collections::BTreeMap<_, _>>()
    }};
}

/// An answer with checksums among its other fields.
macro_rules! with_sums {
    ($sums:ident => $output:ident { $($field:tt)* }) => {
        $output {
            checksum_crc32: $sums.crc32,
            checksum_crc32c: $sums.crc32c,
            checksum_crc64nvme: $sums.crc64nvme,
            checksum_sha1: $sums.sha1,
            checksum_sha256: $sums.sha256,
            $($field)*
        }
    };
}

/// An answer that describes an object, as it is or as the request wants it said, with other fields besides.
macro_rules! described {
    ($info:ident, $sums:ident, $told:ident for $input:ident => $output:ident { $($field:tt)* }) => {
        $crate::s3::fields::with_sums! { $sums => $output {
            accept_ranges: Some("bytes".to_owned()),
            cache_control: $input.response_cache_control.or($info.headers.cache_control),
            checksum_type: $sums.kind,
            content_disposition: $input
                .response_content_disposition
                .or($info.headers.content_disposition),
            content_encoding: $input.response_content_encoding.or($info.headers.content_encoding),
            content_language: $input.response_content_language.or($info.headers.content_language),
            content_type: Some(
                $input
                    .response_content_type
                    .or($info.headers.content_type)
                    .unwrap_or_else(|| convert::DEFAULT_TYPE.to_owned()),
            ),
            e_tag: Some(convert::etag(&$info.etag)),
            expires: $input
                .response_expires
                .or_else(|| convert::expires($info.attributes.expires)),
            last_modified: Some(convert::timestamp($info.modified)),
            metadata: convert::metadata($info.headers.metadata),
            object_lock_legal_hold_status: $info.attributes.legal_hold.map(attributes::hold_name),
            object_lock_mode: $info
                .attributes
                .retention
                .map(|retention| ObjectLockMode::from_static(attributes::lock_name(retention.mode))),
            object_lock_retain_until_date: $info
                .attributes
                .retention
                .map(|retention| convert::timestamp(retention.until)),
            server_side_encryption: $told.server,
            sse_customer_algorithm: $told.algorithm,
            sse_customer_key_md5: $told.md5,
            version_id: $info.version.map(|version| version.to_string()),
            website_redirect_location: $info.attributes.redirect,
            $($field)*
        } }
    };
}

pub(super) use {attributes, checksums, described, grants, headers, other_class, refuse_unbuilt, with_sums};
