//! What a write transaction of the index can do. Callers check everything first and change after: an error of theirs must
//! leave no change behind, because other requests share the transaction.

use super::{
    index::{
        BUCKETS, Bytes, FILES, META, OBJECTS, Outcome, PARTS, TOTAL_BYTES, TOTAL_OBJECTS, UPLOADS, parts_in,
    },
    rows::{
        BucketRow, Extent, FileId, HeadersRow, Instant, ObjectRow, ObjectV1, PartRow, PartV1, UPLOAD_ID,
        UploadRow, decode, encode, object_key, part_key, upload_key,
    },
};
use crate::engine::ObjectRef;
use redb::{ReadableTable, Table, WriteTransaction};

pub(super) struct Change<'t> {
    meta: Table<'t, &'static str, u64>,
    buckets: Table<'t, &'static str, Bytes>,
    objects: Table<'t, Bytes, Bytes>,
    uploads: Table<'t, Bytes, Bytes>,
    parts: Table<'t, Bytes, Bytes>,
    files: Table<'t, u128, u32>,
    /// Whether anything was changed.
    pub changed: bool,
    /// Files that nothing refers to any more, to be removed after the commit.
    pub dead: Vec<FileId>,
    pub total_objects: u64,
    pub total_bytes: u64,
}

impl<'t> Change<'t> {
    pub fn begin(transaction: &'t WriteTransaction, totals: (u64, u64)) -> Outcome<Self> {
        Ok(Self {
            meta: transaction.open_table(META)?,
            buckets: transaction.open_table(BUCKETS)?,
            objects: transaction.open_table(OBJECTS)?,
            uploads: transaction.open_table(UPLOADS)?,
            parts: transaction.open_table(PARTS)?,
            files: transaction.open_table(FILES)?,
            changed: false,
            dead: Vec::new(),
            total_objects: totals.0,
            total_bytes: totals.1,
        })
    }

    /// To be called once, after all changes.
    pub fn write_totals(&mut self) -> Outcome<()> {
        self.meta.insert(TOTAL_OBJECTS, self.total_objects)?;
        self.meta.insert(TOTAL_BYTES, self.total_bytes)?;
        Ok(())
    }

    pub fn has_bucket(&self, name: &str) -> Outcome<bool> {
        Ok(self.buckets.get(name)?.is_some())
    }

    pub fn insert_bucket(&mut self, name: &str) -> Outcome<()> {
        self.changed = true;
        let row = encode(&BucketRow::V1 {
            created: Instant::now(),
        })?;
        self.buckets.insert(name, row.as_slice())?;
        Ok(())
    }

    pub fn remove_bucket(&mut self, name: &str) -> Outcome<()> {
        self.changed = true;
        self.buckets.remove(name)?;
        Ok(())
    }

    /// Whether the bucket holds neither objects nor uploads.
    pub fn is_empty(&self, bucket: &str) -> Outcome<bool> {
        let first = object_key(bucket, "");
        for table in [&self.objects, &self.uploads] {
            if let Some(row) = table.range(first.as_slice()..)?.next()
                && row?.0.value().starts_with(&first)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub fn object(&self, object: &ObjectRef) -> Outcome<Option<ObjectV1>> {
        let Some(row) = self
            .objects
            .get(object_key(&object.bucket, &object.key).as_slice())?
        else {
            return Ok(None);
        };
        let ObjectRow::V1(row) = decode(row.value())?;
        Ok(Some(row))
    }

    /// Writes an object's row in place of the one that is there. Its extents must have been referred to
    /// ([`Change::refer`]) already.
    pub fn replace_object(&mut self, object: &ObjectRef, row: &ObjectV1) -> Outcome<()> {
        self.remove_object(object)?;
        let encoded = encode(&ObjectRow::V1(row.clone()))?;
        self.objects.insert(
            object_key(&object.bucket, &object.key).as_slice(),
            encoded.as_slice(),
        )?;
        self.changed = true;
        self.total_objects += 1;
        self.total_bytes += row.size;
        Ok(())
    }

    pub fn remove_object(&mut self, object: &ObjectRef) -> Outcome<()> {
        let removed = match self
            .objects
            .remove(object_key(&object.bucket, &object.key).as_slice())?
        {
            None => return Ok(()),
            Some(row) => decode(row.value())?,
        };
        let ObjectRow::V1(row) = removed;
        self.changed = true;
        self.total_objects = self.total_objects.saturating_sub(1);
        self.total_bytes = self.total_bytes.saturating_sub(row.size);
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

    pub fn insert_upload(&mut self, object: &ObjectRef, id: &str, headers: HeadersRow) -> Outcome<()> {
        self.changed = true;
        let row = encode(&UploadRow::V1 {
            started: Instant::now(),
            headers,
        })?;
        self.uploads.insert(
            upload_key(&object.bucket, &object.key, id).as_slice(),
            row.as_slice(),
        )?;
        Ok(())
    }

    /// The headers given when the upload was begun; `None` when there is no such upload.
    pub fn upload(&self, object: &ObjectRef, id: &str) -> Outcome<Option<HeadersRow>> {
        if id.len() != UPLOAD_ID {
            return Ok(None);
        }
        let Some(row) = self
            .uploads
            .get(upload_key(&object.bucket, &object.key, id).as_slice())?
        else {
            return Ok(None);
        };
        let UploadRow::V1 { headers, .. } = decode(row.value())?;
        Ok(Some(headers))
    }

    pub fn parts(&self, upload: &str) -> Outcome<Vec<(u16, PartV1)>> {
        parts_in(&self.parts, upload)
    }

    pub fn replace_part(&mut self, upload: &str, number: u16, part: PartV1) -> Outcome<()> {
        self.changed = true;
        let key = part_key(upload, number);
        let replaced = match self.parts.remove(key.as_slice())? {
            None => None,
            Some(row) => Some(decode(row.value())?),
        };
        if let Some(PartRow::V1(old)) = replaced {
            self.release(&old.extents)?;
        }
        self.refer(&part.extents)?;
        let row = encode(&PartRow::V1(part))?;
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
