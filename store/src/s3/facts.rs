//! GetObjectAttributes.

use super::{
    Front,
    attributes::{Sums, version_id},
    convert,
    encryption::{self, customer},
    error,
    fields::with_sums,
    known::{self, named},
};
use crate::engine::{Checksum as Kind, PartFacts};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        Checksum, GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectAttributesParts,
        ObjectAttributes, ObjectPart, StorageClass,
    },
    s3_error,
};

/// A part as it is told; `kind` is the checksum that its upload was begun with.
fn part_of(at: usize, part: &PartFacts, kind: Option<Kind>) -> ObjectPart {
    let of = |wanted: Kind| part.checksum.clone().filter(|_| kind == Some(wanted));
    ObjectPart {
        checksum_crc32: of(Kind::Crc32),
        checksum_crc32c: of(Kind::Crc32c),
        checksum_crc64nvme: Some(convert::crc64(part.crc64nvme)).filter(|_| kind.is_none()),
        checksum_sha1: of(Kind::Sha1),
        checksum_sha256: of(Kind::Sha256),
        part_number: i32::try_from(at + 1).ok(),
        size: Some(convert::size(part.size)),
    }
}

pub(super) async fn get_object_attributes(
    front: &Front,
    request: S3Request<GetObjectAttributesInput>,
) -> S3Result<S3Response<GetObjectAttributesOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    let customer = customer!(request, input)?;
    let known = [
        ObjectAttributes::CHECKSUM,
        ObjectAttributes::ETAG,
        ObjectAttributes::OBJECT_PARTS,
        ObjectAttributes::OBJECT_SIZE,
        ObjectAttributes::STORAGE_CLASS,
    ];
    let asked: Vec<&str> = input
        .object_attributes
        .iter()
        .flat_map(|names| names.as_str().split(','))
        .map(str::trim)
        .collect();
    if asked.is_empty() || asked.iter().any(|name| !known.contains(name)) {
        return Err(s3_error!(InvalidArgument, "Invalid attribute name specified."));
    }
    let wants = |name: &str| asked.contains(&name);
    let limit = convert::limit(input.max_parts, "max-parts")?;
    let after = usize::try_from(input.part_number_marker.unwrap_or(0)).unwrap_or(0);
    let info = known::info(front, named!(input)).await?;
    encryption::permits(&info, customer.as_ref()).map_err(error::answer)?;
    let sums = Sums::of(&info, wants(ObjectAttributes::CHECKSUM));
    let sizes = &info.attributes.parts;
    let kind = info.attributes.checksums.of.keys().next().copied();
    let parts = (wants(ObjectAttributes::OBJECT_PARTS) && !sizes.is_empty()).then(|| {
        let listed: Vec<ObjectPart> = sizes
            .iter()
            .enumerate()
            .skip(after)
            .take(limit)
            .map(|(at, part)| part_of(at, part, kind))
            .collect();
        let last = after + listed.len();
        GetObjectAttributesParts {
            is_truncated: Some(last < sizes.len()),
            max_parts: i32::try_from(limit).ok(),
            next_part_number_marker: i32::try_from(last).ok(),
            part_number_marker: i32::try_from(after).ok(),
            parts: Some(listed),
            total_parts_count: i32::try_from(sizes.len()).ok(),
        }
    });
    let checksum = wants(ObjectAttributes::CHECKSUM)
        .then_some(with_sums! { sums => Checksum { checksum_type: sums.kind, } });
    Ok(S3Response::new(GetObjectAttributesOutput {
        checksum,
        e_tag: wants(ObjectAttributes::ETAG).then(|| convert::etag(&info.etag)),
        last_modified: Some(convert::timestamp(info.modified)),
        object_parts: parts,
        object_size: wants(ObjectAttributes::OBJECT_SIZE).then(|| convert::size(info.size)),
        storage_class: wants(ObjectAttributes::STORAGE_CLASS)
            .then(|| StorageClass::from_static(StorageClass::STANDARD)),
        version_id: version_id(&info),
        ..Default::default()
    }))
}
