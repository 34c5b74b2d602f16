// SPDX-License-Identifier: MIT
/*
 * Opening a qcow2 image: header, tables, other files, and what it refuses. The thread that opens.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "server/image/crypt.h"
#include "server/image/lock.h"
#include "server/image/luks/luks.h"
#include "server/image/place.h"
#include "writer.h"

/* ---- Reading ---- */

/* Reads the first cluster; its size is in it. */
static int read_first_cluster(struct qcow2 *q, struct error *err)
{
	uint8_t head[QCOW2_SECTOR];
	uint32_t bits;
	int rc = hostfile_read(q->file, head, sizeof(head), 0);

	if (rc && rc != -ENODATA)
		return error_set_errno(err, -rc, "Could not read qcow2 header");
	bits = load_be32(head + 20);
	if (bits < QCOW2_CLUSTER_BITS_MIN || bits > QCOW2_CLUSTER_BITS_MAX)
		bits = QCOW2_CLUSTER_BITS_MIN; /* the parser will say so */
	q->first_cluster_length = (size_t)1 << bits;
	q->first_cluster = calloc(1, q->first_cluster_length);
	if (!q->first_cluster)
		return error_set(err, ENOMEM, "out of memory");
	rc = hostfile_read(q->file, q->first_cluster, q->first_cluster_length, 0);
	if (rc && rc != -ENODATA)
		return error_set_errno(err, -rc, "Could not read qcow2 header");
	return 0;
}

static int read_header(struct qcow2 *q, struct error *err)
{
	int rc = read_first_cluster(q, err);

	if (rc == 0)
		rc = qcow2_parse_header(q->first_cluster, q->first_cluster_length, &q->header, err);
	if (rc == 0)
		rc = qcow2_parse_extensions(q->first_cluster, q->first_cluster_length, &q->header,
					    &q->extensions, err);
	if (rc == 0)
		rc = qcow2_check_features(&q->header, &q->extensions, err);
	if (rc)
		return rc;
	q->cluster_bits = q->header.cluster_bits;
	q->cluster_size = qcow2_cluster_size(&q->header);
	q->l2_bits = qcow2_l2_bits(&q->header);
	q->subcluster_bits = q->cluster_bits - (qcow2_has_subclusters(&q->header) ? 5 : 0);
	return 0;
}

/* Who says that an image is encrypted must not get one that is not. */
static int check_encryption(const struct qcow2 *q, struct error *err)
{
	static const char *const names[] = {
		[NODE_ENCRYPTION_LUKS] = "luks", [NODE_ENCRYPTION_AES] = "aes"};
	const struct image_node *node = q->image->options.node;
	enum node_encryption said = node ? node->encryption : NODE_ENCRYPTION_UNSET, found;

	if (!said)
		return 0;
	if (q->header.crypt == QCOW2_CRYPT_NONE)
		return error_set(err, EINVAL,
				 "No encryption in image header, but options specified format '%s'",
				 names[said]);
	found = q->header.crypt == QCOW2_CRYPT_AES ? NODE_ENCRYPTION_AES : NODE_ENCRYPTION_LUKS;
	if (found == said)
		return 0;
	return error_set(err, EINVAL,
			 "Header reported '%s' encryption format but options specify '%s'",
			 names[found], names[said]);
}

/* What this version knows by name and does not serve. */
static int check_supported(const struct qcow2 *q, struct error *err)
{
	const struct qcow2_header *header = &q->header;

	if (header->crypt == QCOW2_CRYPT_AES)
		return error_set(err, ENOTSUP,
				 "the image is encrypted (AES), which is not supported; "
				 "qemu-img convert can decrypt it");
	if (header->crypt == QCOW2_CRYPT_LUKS && !q->extensions.crypt_offset)
		return error_set(err, EINVAL,
				 "the image is encrypted (LUKS), but says nothing of its keys");
	return 0;
}

static bool note_active(void *context, const struct qcow2_bitmap *bitmap)
{
	struct qcow2 *q = context;

	q->bitmaps_active |= bitmap->automatic && !bitmap->in_use;
	return true;
}

/* Bitmaps that record writes would miss ours: a chain of incremental backups would break. */
static int check_bitmaps(struct qcow2 *q, struct error *err)
{
	int rc = qcow2_bitmaps_each(q, note_active, q, err);

	if (rc)
		return rc;
	if (!q->bitmaps_active || q->image->options.bitmaps_may_break)
		return 0;
	return error_set(err, EROFS,
			 "the image has dirty bitmaps that record writes, and this version cannot "
			 "keep them up; incremental backups would silently lose data");
}

static int check_writable(struct qcow2 *q, struct error *err)
{
	if (q->image->read_only)
		return 0;
	if (q->header.incompatible & QCOW2_INCOMPATIBLE_CORRUPT)
		return error_set(err, EROFS,
				 "qcow2: Image is corrupt; cannot be opened read/write");
	return check_bitmaps(q, err);
}

static int read_l1(struct qcow2 *q, uint64_t offset, uint32_t size, struct error *err)
{
	size_t bytes = (size_t)size * 8;
	AUTO_FREE uint8_t *table = malloc(bytes ? bytes : 1);
	int rc;

	q->l1 = calloc(size ? size : 1, sizeof(*q->l1));
	q->l1_size = size;
	if (!table || !q->l1)
		return error_set(err, ENOMEM, "out of memory");
	rc = hostfile_read(q->file, table, bytes, offset);
	if (rc && rc != -ENODATA)
		return error_set_errno(err, -rc, "Could not read L1 table");
	for (uint32_t i = 0; i < size; i++)
		atomic_init(&q->l1[i], load_be64(table + (size_t)i * 8));
	return 0;
}

/* The disk, or the snapshot that stands for it. */
static int choose_disk(struct qcow2 *q, struct error *err)
{
	const char *wanted = q->image->options.load_snapshot;
	const struct qcow2_snapshot *snapshot;
	int rc;

	if (!wanted) {
		q->image->size = q->header.size;
		return read_l1(q, q->header.l1_offset, q->header.l1_size, err);
	}
	rc = qcow2_snapshot_find(q, wanted, &snapshot, err);
	if (rc)
		return rc;
	q->image->size = snapshot->size;
	return read_l1(q, snapshot->l1_offset, snapshot->l1_size, err);
}

/* The image that this one takes the place of, if it is one of qcow2, too. */
static const struct qcow2 *previous_state(const struct qcow2 *q)
{
	const struct image *previous = q->image->previous;

	return previous && previous->driver == &image_driver_qcow2 ? previous->state : NULL;
}

/* Sectors are numbered as they are in the file. */
static int open_crypt(struct qcow2 *q, struct error *err)
{
	uint64_t base = q->extensions.crypt_offset;
	struct luks_source source = {.file = q->file,
				     .base = base,
				     .limit = base + q->extensions.crypt_length,
				     .inside = true};
	const struct qcow2 *previous = previous_state(q);
	struct luks_header header;
	int rc;

	if (q->header.crypt != QCOW2_CRYPT_LUKS)
		return 0;
	source.known = previous ? previous->crypt : NULL;
	rc = image_key(q->image, &source.key, err);
	if (rc == 0)
		rc = luks_unlock(&source, &header, &q->crypt, err);
	if (rc == -ENOKEY)
		return image_key_missing(q->image, err);
	if (rc)
		return rc;
	q->image->encrypted = true;
	return 0;
}

/* ---- Other files ---- */

/* Where the data file is: what the user says, or what the image says. */
static int find_data_file(struct qcow2 *q, struct image_place *place, char **path,
			  struct error *err)
{
	const struct image_node *node = q->image->options.node, *other;
	int rc;

	*place = (struct image_place){.length = NODE_TO_THE_END};
	if (node && node->data_file) {
		rc = place_find(node->data_file, place, &other, err);
		if (rc || !other)
			return rc;
		return error_set(err, ENOTSUP, "the data file must be a file or disk of the host");
	}
	if (!*q->extensions.data_file)
		return error_set(err, EINVAL, "'data-file' is required for this image");
	*path = image_resolve_name(q->image, q->extensions.data_file, err);
	place->path = *path;
	return *path ? 0 : err ? -err->code : -EPERM;
}

static int choose_part(struct hostfile *data, const struct image_place *place, struct error *err)
{
	uint64_t size;
	int rc = hostfile_size(data, &size);

	if (rc)
		return error_set_errno(err, -rc, "cannot tell the size of the data file");
	rc = place_check_size(place, size, err);
	if (rc == 0)
		hostfile_set_part(data, place->base, place->length);
	return rc;
}

/* The same file in the image that this one is to replace; NULL: there is none. */
static struct hostfile *replaced_data_file(const struct qcow2 *q)
{
	const struct image *replaces = q->image->replaces;
	const struct qcow2 *old = replaces ? replaces->state : NULL;

	return old && old->data != old->file && hostfile_same(old->data, q->data) ? old->data
										  : NULL;
}

static int open_data_file(struct qcow2 *q, struct error *err)
{
	const struct image_node *node = q->image->options.node;
	unsigned int used = PERMISSION_CONSISTENT_READ;
	AUTO_FREE char *path = NULL;
	struct image_place place;
	int rc;

	if (!qcow2_has_data_file(&q->header))
		return node && node->data_file
			       ? error_set(
					 err, EINVAL,
					 "'data-file' can only be set for images with an external "
					 "data file")
			       : 0;
	rc = find_data_file(q, &place, &path, err);
	if (rc)
		return rc;
	rc = hostfile_open(place.path, !q->image->read_only, &q->data);
	if (rc)
		return error_set_errno(err, -rc, "Could not open data file '%s'", place.path);
	rc = image_choose_cache(q->image, q->data, &place, err);
	if (rc == 0)
		rc = choose_part(q->data, &place, err);
	if (rc)
		return rc;
	if (!q->image->read_only)
		used |= PERMISSION_WRITE;
	return lock_take_over(replaced_data_file(q), q->data, used,
			      place.force_share ? 0 : PERMISSION_WRITE | PERMISSION_RESIZE,
			      place.locking, err);
}

static int open_backing(struct qcow2 *q, struct error *err)
{
	const struct image_node *node = q->image->options.node;
	const struct qcow2 *previous = previous_state(q);
	int rc;

	if (!*q->extensions.backing && !(node && node->backing))
		return 0;
	rc = image_open_backing(q->image, q->extensions.backing, q->extensions.backing_format,
				previous ? previous->backing : NULL, &q->backing, err);
	if (q->backing)
		q->image->encrypted |= q->backing->encrypted;
	return rc;
}

/* ---- The driver ---- */

static void state_free(struct qcow2 *q)
{
	if (q->data != q->file)
		hostfile_close(q->data);
	crypt_free(q->crypt);
	image_close(q->backing);
	qcow2_writer_free(q);
	qcow2_cache_free(q->cache);
	qcow2_decoder_free(q->decoder);
	free(q->l1);
	free(q->first_cluster);
	free(q->snapshot_table);
	free(q->snapshots);
	free(q);
}

static int make_caches(struct qcow2 *q, struct error *err)
{
	q->cache = qcow2_cache_new(&q->header, q->image->depth);
	q->decoder = qcow2_decoder_new(&q->header);
	return q->cache && q->decoder ? 0 : error_set(err, ENOMEM, "out of memory");
}

static int qcow2_open(struct image *image, struct error *err)
{
	int (*const steps[])(struct qcow2 *, struct error *) = {
		read_header,       qcow2_snapshots_load, choose_disk,    make_caches,
		qcow2_writer_open, open_crypt,           open_data_file, open_backing};
	struct qcow2 *q = calloc(1, sizeof(*q));
	int rc = 0;

	if (!q)
		return error_set(err, ENOMEM, "out of memory");
	q->image = image;
	q->file = image->file;
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]) && !rc; i++) {
		rc = steps[i](q, err);
		if (i == 0 && rc == 0)
			rc = check_encryption(q, err);
		if (i == 0 && rc == 0)
			rc = check_supported(q, err);
		if (i == 0 && rc == 0)
			rc = check_writable(q, err);
	}
	if (rc && q->data && replaced_data_file(q))
		lock_restore(replaced_data_file(q));
	if (rc) {
		state_free(q);
		return rc;
	}
	if (!q->data)
		q->data = q->file;
	image->state = q;
	image->zero_unit = UINT32_C(1) << q->subcluster_bits;
	return 0;
}

static void qcow2_close(struct image *image)
{
	int rc = image->abandoned ? 0 : qcow2_flush(image);

	/* What was freed has left the disk only now; the second one writes its refcounts. */
	if (rc == 0 && !image->abandoned)
		rc = qcow2_flush(image);
	if (rc)
		log_error("%s: metadata was lost: %s", image->file->path, strerror(-rc));
	state_free(image->state);
}

static void qcow2_visit_files(struct image *image, image_visit_file *visit, void *context)
{
	struct qcow2 *q = image->state;

	if (q->data != q->file)
		visit(q->data, context);
	if (q->backing)
		image_visit_files(q->backing, visit, context);
}

const struct image_driver image_driver_qcow2 = {
	.name = "qcow2",
	.short_files = true,
	.metadata = true,
	.snapshots = true,
	.open = qcow2_open,
	.close = qcow2_close,
	.map = qcow2_map,
	.read = qcow2_read,
	.write = qcow2_write,
	.write_is_quick = qcow2_write_is_quick,
	.zero = qcow2_zero,
	.discard = qcow2_discard,
	.flush = qcow2_flush,
	.visit_files = qcow2_visit_files,
	.settle = qcow2_settle,
	.bitmap_open = qcow2_bitmap_open,
	.bitmap_walk = qcow2_bitmap_walk,
	.bitmap_close = qcow2_bitmap_close,
};
