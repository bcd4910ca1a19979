//! What a write transaction of the index can do. Callers check everything first and change after: an error of theirs must
//! leave no change behind, because other requests share the transaction.

use super::{
    index::{
        BUCKETS, Bytes, DOCUMENTS, FILES, KEYS, MASTER_KEY, META, OBJECTS, Outcome, PARTS, TOTAL_BYTES,
        TOTAL_OBJECTS, UPLOADS, USAGE, VERSIONS, current_in, found_in, marker_in, newest_in, parts_in,
        upload_in, version_in,
    },
    rows::{
        BucketRow, BucketV2, Extent, FileId, Instant, ObjectRow, ObjectV2, PartRow, PartV2, UploadRow,
        UploadV2, VersionId, VersionRow, VersioningRow, decode, document_key, encode, object_key, part_key,
        upload_key, version_key,
    },
};
use crate::engine::{ObjectRef, Version};
use redb::{ReadableTable, Table, WriteTransaction};
use std::collections::HashMap;

pub(super) struct Change<'t> {
    meta: Table<'t, &'static str, u64>,
    buckets: Table<'t, &'static str, Bytes>,
    documents: Table<'t, Bytes, Bytes>,
    keys: Table<'t, &'static str, Bytes>,
    objects: Table<'t, Bytes, Bytes>,
    versions: Table<'t, Bytes, Bytes>,
    uploads: Table<'t, Bytes, Bytes>,
    parts: Table<'t, Bytes, Bytes>,
    files: Table<'t, u128, u32>,
    /// Whether anything was changed.
    pub changed: bool,
    /// Files that nothing refers to any more, to be removed after the commit.
    pub dead: Vec<FileId>,
    pub total_objects: u64,
    pub total_bytes: u64,
    usage: Table<'t, &'static str, (u64, u64)>,
    /// Objects and bytes that came into buckets and went.
    moved: HashMap<String, (i64, i64)>,
}

impl<'t> Change<'t> {
    pub fn begin(transaction: &'t WriteTransaction, totals: (u64, u64)) -> Outcome<Self> {
        Ok(Self {
            meta: transaction.open_table(META)?,
            buckets: transaction.open_table(BUCKETS)?,
            documents: transaction.open_table(DOCUMENTS)?,
            keys: transaction.open_table(KEYS)?,
            objects: transaction.open_table(OBJECTS)?,
            versions: transaction.open_table(VERSIONS)?,
            uploads: transaction.open_table(UPLOADS)?,
            parts: transaction.open_table(PARTS)?,
            files: transaction.open_table(FILES)?,
            changed: false,
            dead: Vec::new(),
            total_objects: totals.0,
            total_bytes: totals.1,
            usage: transaction.open_table(USAGE)?,
            moved: HashMap::new(),
        })
    }

    /// To be called once, after all changes.
    pub fn write_totals(&mut self) -> Outcome<()> {
        self.meta.insert(TOTAL_OBJECTS, self.total_objects)?;
        self.meta.insert(TOTAL_BYTES, self.total_bytes)?;
        for (bucket, (objects, bytes)) in std::mem::take(&mut self.moved) {
            let before = self.usage.get(bucket.as_str())?.map_or((0, 0), |row| row.value());
            let after = (
                before.0.saturating_add_signed(objects),
                before.1.saturating_add_signed(bytes),
            );
            match after {
                (0, 0) => drop(self.usage.remove(bucket.as_str())?),
                after => drop(self.usage.insert(bucket.as_str(), after)?),
            }
        }
        Ok(())
    }

    /// Bytes of all versions in a bucket.
    pub fn bytes_in(&self, bucket: &str) -> Outcome<u64> {
        let before = self.usage.get(bucket)?.map_or(0, |row| row.value().1);
        let moved = self.moved.get(bucket).map_or(0, |(_, bytes)| *bytes);
        Ok(before.saturating_add_signed(moved))
    }

    fn count(&mut self, bucket: &str, objects: i64, size: u64) {
        let bytes = i64::try_from(size).unwrap_or(i64::MAX).saturating_mul(objects);
        self.total_objects = self.total_objects.saturating_add_signed(objects);
        self.total_bytes = self.total_bytes.saturating_add_signed(bytes);
        let moved = self.moved.entry(bucket.to_owned()).or_default();
        *moved = (moved.0 + objects, moved.1 + bytes);
    }

    pub fn has_bucket(&self, name: &str) -> Outcome<bool> {
        Ok(self.buckets.get(name)?.is_some())
    }

    pub fn bucket(&self, name: &str) -> Outcome<Option<BucketV2>> {
        let Some(row) = self.buckets.get(name)? else {
            return Ok(None);
        };
        Ok(Some(decode::<BucketRow>(row.value())?.into()))
    }

    /// Writes a bucket's row, in place of one that is there.
    pub fn put_bucket(&mut self, name: &str, row: BucketV2) -> Outcome<()> {
        self.changed = true;
        let row = encode(&BucketRow::V2(row))?;
        self.buckets.insert(name, row.as_slice())?;
        Ok(())
    }

    pub fn set_key(&mut self, access_key: &str, row: Option<&[u8]>) -> Outcome<()> {
        self.changed = true;
        match row {
            Some(row) => self.keys.insert(access_key, row)?.is_some(),
            None => self.keys.remove(access_key)?.is_some(),
        };
        Ok(())
    }

    pub fn set_master_key_id(&mut self, id: u64) -> Outcome<()> {
        self.changed = true;
        self.meta.insert(MASTER_KEY, id)?;
        Ok(())
    }

    pub fn set_document(&mut self, bucket: &str, name: &str, document: Option<&[u8]>) -> Outcome<()> {
        self.changed = true;
        let key = document_key(bucket, name);
        match document {
            Some(document) => self.documents.insert(key.as_slice(), document)?.is_some(),
            None => self.documents.remove(key.as_slice())?.is_some(),
        };
        Ok(())
    }

    pub fn remove_bucket(&mut self, name: &str) -> Outcome<()> {
        self.changed = true;
        self.buckets.remove(name)?;
        let (first, last) = (document_key(name, ""), document_key(name, "\u{10ffff}"));
        self.documents
            .retain_in(first.as_slice()..=last.as_slice(), |_, _| false)?;
        Ok(())
    }

    /// Whether the bucket holds neither objects, nor versions, nor uploads.
    pub fn is_empty(&self, bucket: &str) -> Outcome<bool> {
        let first = object_key(bucket, "");
        for table in [&self.objects, &self.versions, &self.uploads] {
            if let Some(row) = table.range(first.as_slice()..)?.next()
                && row?.0.value().starts_with(&first)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What is read without naming a version.
    pub fn current(&self, object: &ObjectRef) -> Outcome<Option<ObjectV2>> {
        current_in(&self.objects, object)
    }

    /// The version that is meant, and whether it is the current one.
    pub fn object(&self, object: &ObjectRef) -> Outcome<Option<(ObjectV2, bool)>> {
        found_in(self.current(object)?, &self.versions, object)
    }

    /// The delete marker that is meant, and when it was made.
    pub fn marker(&self, object: &ObjectRef) -> Outcome<Option<(Version, Instant)>> {
        marker_in(&self.versions, object)
    }

    /// Makes a row an object's current version, in place of the one that is there or beside it, as the bucket has it. Its
    /// extents must have been referred to ([`Change::refer`]) already.
    pub fn put_object(&mut self, bucket: &BucketV2, object: &ObjectRef, row: &mut ObjectV2) -> Outcome<()> {
        row.version = self.make_room(bucket, object)?;
        self.count(&object.bucket, 1, row.size);
        self.write_current(object, row)
    }

    /// Makes a delete marker an object's latest version where the bucket keeps versions, and removes the object where not.
    pub fn put_marker(&mut self, bucket: &BucketV2, object: &ObjectRef) -> Outcome<Option<VersionId>> {
        let id = self.make_room(bucket, object)?;
        if bucket.versioning == VersioningRow::Never {
            return Ok(None);
        }
        let row = VersionRow::Marker {
            modified: Instant::now(),
            is_null: id.is_null,
        };
        self.write_version(object, id.number, &row)?;
        Ok(Some(id))
    }

    /// Writes other facts of a version that is there.
    pub fn rewrite(&mut self, object: &ObjectRef, row: ObjectV2, is_current: bool) -> Outcome<()> {
        if is_current {
            return self.write_current(object, &row);
        }
        let number = row.version.number;
        self.write_version(object, number, &VersionRow::Object(Box::new(ObjectRow::V2(row))))
    }

    /// Removes a version for good; says whether it was a delete marker, `None` if there is none. The newest one that is left is
    /// the latest then.
    pub fn remove_version(&mut self, object: &ObjectRef, version: Version) -> Outcome<Option<bool>> {
        let was_marker = match self.current(object)?.filter(|row| row.version.is(version)) {
            Some(row) => {
                self.take_current(object)?;
                self.drop_row(object, &row)?;
                false
            }
            None => match version_in(&self.versions, object, version)? {
                None => return Ok(None),
                Some((id, row)) => {
                    self.take_version(object, id.number)?;
                    match row {
                        VersionRow::Marker { .. } => true,
                        VersionRow::Object(row) => {
                            self.drop_row(object, &(*row).into())?;
                            false
                        }
                    }
                }
            },
        };
        self.promote(object)?;
        Ok(Some(was_marker))
    }

    /// Where there is no current version, the newest one becomes it, unless that is a delete marker.
    fn promote(&mut self, object: &ObjectRef) -> Outcome<()> {
        if self.current(object)?.is_some() {
            return Ok(());
        }
        if let Some((id, VersionRow::Object(row))) = newest_in(&self.versions, object)? {
            self.take_version(object, id.number)?;
            let mut row: ObjectV2 = (*row).into();
            row.version = id;
            self.write_current(object, &row)?;
        }
        Ok(())
    }

    /// Puts what is current aside, or removes it, and names what takes its place.
    fn make_room(&mut self, bucket: &BucketV2, object: &ObjectRef) -> Outcome<VersionId> {
        let before = self.take_current(object)?;
        let mut id = VersionId::new(bucket.versioning != VersioningRow::Enabled);
        if bucket.versioning == VersioningRow::Never {
            if let Some(row) = before {
                self.drop_row(object, &row)?;
            }
            return Ok(id);
        }
        if let Some(row) = before {
            // Clocks go back, and two writes may come at once.
            id.number = id.number.max(row.version.number + 1);
            if id.is_null && row.version.is_null {
                self.drop_row(object, &row)?;
            } else {
                let number = row.version.number;
                self.write_version(object, number, &VersionRow::Object(Box::new(ObjectRow::V2(row))))?;
            }
        } else if let Some((newest, _)) = newest_in(&self.versions, object)? {
            id.number = id.number.max(newest.number + 1);
        }
        // There is one of this name at most.
        if id.is_null
            && let Some((old, row)) = version_in(&self.versions, object, Version::Null)?
        {
            self.take_version(object, old.number)?;
            if let VersionRow::Object(row) = row {
                self.drop_row(object, &(*row).into())?;
            }
        }
        Ok(id)
    }

    fn take_current(&mut self, object: &ObjectRef) -> Outcome<Option<ObjectV2>> {
        let key = object_key(&object.bucket, &object.key);
        let taken = match self.objects.remove(key.as_slice())? {
            None => return Ok(None),
            Some(row) => decode::<ObjectRow>(row.value())?,
        };
        self.changed = true;
        Ok(Some(taken.into()))
    }

    fn take_version(&mut self, object: &ObjectRef, number: u128) -> Outcome<()> {
        self.changed = true;
        self.versions
            .remove(version_key(&object.bucket, &object.key, number).as_slice())?;
        Ok(())
    }

    fn write_current(&mut self, object: &ObjectRef, row: &ObjectV2) -> Outcome<()> {
        self.changed = true;
        let encoded = encode(&ObjectRow::V2(row.clone()))?;
        self.objects.insert(
            object_key(&object.bucket, &object.key).as_slice(),
            encoded.as_slice(),
        )?;
        Ok(())
    }

    fn write_version(&mut self, object: &ObjectRef, number: u128, row: &VersionRow) -> Outcome<()> {
        self.changed = true;
        let encoded = encode(row)?;
        self.versions.insert(
            version_key(&object.bucket, &object.key, number).as_slice(),
            encoded.as_slice(),
        )?;
        Ok(())
    }

    /// Notes that a version's bytes are gone.
    fn drop_row(&mut self, object: &ObjectRef, row: &ObjectV2) -> Outcome<()> {
        self.changed = true;
        self.count(&object.bucket, -1, row.size);
        self.release(&row.extents)
    }

    /// Notes that one more row refers to these extents.
    pub fn refer(&mut self, extents: &[Extent]) -> Outcome<()> {
        for extent in extents {
            let references = self.files.get(extent.file.0)?.map_or(0, |count| count.value());
            self.files.insert(extent.file.0, references + 1)?;
            self.changed = true;
        }
        Ok(())
    }

    /// Notes that one row less refers to these extents.
    pub fn release(&mut self, extents: &[Extent]) -> Outcome<()> {
        for extent in extents {
            let references = self.files.get(extent.file.0)?.map_or(0, |count| count.value());
            if references > 1 {
                self.files.insert(extent.file.0, references - 1)?;
            } else {
                self.files.remove(extent.file.0)?;
                self.dead.push(extent.file);
            }
            self.changed = true;
        }
        Ok(())
    }

    pub fn insert_upload(&mut self, object: &ObjectRef, id: &str, row: UploadV2) -> Outcome<()> {
        self.changed = true;
        let row = encode(&UploadRow::V2(row))?;
        self.uploads.insert(
            upload_key(&object.bucket, &object.key, id).as_slice(),
            row.as_slice(),
        )?;
        Ok(())
    }

    /// What was said when the upload was begun; `None` when there is no such upload.
    pub fn upload(&self, object: &ObjectRef, id: &str) -> Outcome<Option<UploadV2>> {
        upload_in(&self.uploads, object, id)
    }

    pub fn parts(&self, upload: &str) -> Outcome<Vec<(u16, PartV2)>> {
        parts_in(&self.parts, upload)
    }

    pub fn replace_part(&mut self, upload: &str, number: u16, part: PartV2) -> Outcome<()> {
        self.changed = true;
        let key = part_key(upload, number);
        let replaced = match self.parts.remove(key.as_slice())? {
            None => None,
            Some(row) => Some(decode::<PartRow>(row.value())?),
        };
        if let Some(old) = replaced {
            self.release(&PartV2::from(old).extents)?;
        }
        self.refer(&part.extents)?;
        let row = encode(&PartRow::V2(part))?;
        self.parts.insert(key.as_slice(), row.as_slice())?;
        Ok(())
    }

    /// Removes an upload, its parts, and their references.
    pub fn remove_upload(&mut self, object: &ObjectRef, id: &str) -> Outcome<()> {
        self.changed = true;
        self.uploads
            .remove(upload_key(&object.bucket, &object.key, id).as_slice())?;
        for (number, part) in self.parts(id)? {
            self.parts.remove(part_key(id, number).as_slice())?;
            self.release(&part.extents)?;
        }
        Ok(())
    }
}
