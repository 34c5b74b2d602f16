/* SPDX-License-Identifier: MIT */
/*
 * Images: the contract between the engine and the format drivers. A driver translates addresses;
 * the engine moves bytes. It does not know the socket and does not know NBD.
 *
 * Two levels:
 * - map, the fast path: where do these guest bytes live? Must not block when asked not to.
 * - read, write, zero, discard, flush: ordinary blocking code, run by workers. Their defaults are
 *   built on map, so that a driver like raw is nearly empty.
 *
 * All of a range is inside [0, image->size): the export checks. Any number of threads call into
 * one image at once; the driver holds its own locks.
 */
#ifndef HAWSER_SERVER_IMAGE_IMAGE_H
#define HAWSER_SERVER_IMAGE_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "description.h"
#include "hostfile.h"
#include "server/server.h"

enum map_intent {
	MAP_READ,      /* the bytes are going to be read */
	MAP_OVERWRITE, /* the bytes are going to be written where they are */
	MAP_STATUS,    /* the truth about data and holes is wanted, at the price of looking */
};

enum { MAP_NOWAIT = 1 << 0 }; /* answer -EAGAIN rather than block */

enum extent_kind {
	EXTENT_FILE,      /* the bytes are in file at file_offset: the engine moves them itself */
	EXTENT_ENCRYPTED, /* the same, and crypt stands between them and the guest */
	EXTENT_ZERO,      /* they read as zeroes */
	EXTENT_OPAQUE,    /* only the driver can produce them, by its read */
};

/* What map answers: one run that starts at the offset asked for. It is good as long as the caller
 * stays inside the epoch (epoch.h) in which it asked. */
struct extent {
	enum extent_kind kind;
	bool hole;   /* for block status: nothing is allocated here */
	bool stable; /* good for ever: the place never becomes that of other bytes; if not, pages
		      * that outlive the epoch are lent (loan.h) */
	uint64_t length; /* bytes, 1 up to what was asked */
	struct hostfile *file;
	uint64_t file_offset;
	struct crypt *crypt; /* EXTENT_ENCRYPTED: see crypt.h */
	struct image *owner; /* EXTENT_OPAQUE: which image of the chain must read it */
	uint32_t unit;       /* EXTENT_OPAQUE: it is read in such pieces, a power of two */
	unsigned int depth;  /* allocated in 1: the image itself, 2: the one below...; 0: nowhere */
};

/* Are the bytes in a host file? */
static inline bool extent_in_file(const struct extent *extent)
{
	return extent->kind == EXTENT_FILE || extent->kind == EXTENT_ENCRYPTED;
}

enum zero_flags {
	ZERO_MAY_UNMAP = HOSTFILE_ZERO_MAY_UNMAP, /* holes are welcome */
	ZERO_FAST = HOSTFILE_ZERO_FAST,           /* -EOPNOTSUPP unless faster than writing */
	ZERO_MAY_STAY_HOLE = 1 << 2,              /* what is a hole need not get room */
};

struct image;
struct image_place;
struct object_set;
struct secret;

typedef void image_visit_file(struct hostfile *file, void *context);

/* A dirty bitmap: which parts of a disk were written since somebody began to record it. */
struct image_bitmap {
	struct image *owner; /* the image that stores it, in a chain perhaps a lower one */
	void *state;         /* the driver's */
};

/* A run of equal bits, in order and without gaps; neighbours may be equal. False: enough. */
typedef bool image_bitmap_visit(void *context, uint64_t length, bool dirty);

struct image_driver {
	const char *name;
	bool short_files; /* the host file may end inside the last cluster: zeroes follow */
	bool metadata;    /* the file holds more than guest bytes: one writer at most, no readers
			   * beside it */
	bool snapshots;   /* it knows options.load_snapshot */
	/* Looks into an open file; sets image->size and image->state. Takes image->file as its
	 * main file. On failure err is set and nothing is kept; -EROFS: it could be opened to be
	 * read only. */
	int (*open)(struct image *image, struct error *err);
	/* Looks whether the size has changed. NULL: it does not. Main loop. */
	void (*refresh)(struct image *image);
	/* Flushes what it holds and frees its state. NULL: nothing to do. */
	void (*close)(struct image *image);
	/* 0; -EAGAIN (would block, or needs allocation: go to a worker); another -errno. */
	int (*map)(struct image *image, uint64_t offset, uint64_t length, enum map_intent intent,
		   unsigned int flags, struct extent *extent);
	/* Reads what map called opaque; -EAGAIN: it is no longer, map again. */
	int (*read)(struct image *image, void *buffer, uint64_t offset, uint64_t length);
	/* Writes what map did not let be overwritten in place. NULL: map always does. */
	int (*write)(struct image *image, const void *buffer, uint64_t offset, uint64_t length);
	/* See image_write_is_quick(). NULL: it is not. */
	bool (*write_is_quick)(struct image *image, uint64_t offset, uint64_t length,
			       uint32_t *piece);
	/* NULL members fall back to the host file. 0 or -errno. */
	int (*zero)(struct image *image, uint64_t offset, uint64_t length, unsigned int flags);
	int (*discard)(struct image *image, uint64_t offset, uint64_t length);
	int (*flush)(struct image *image);
	/* Calls visit for the files of the image beside image->file, and for those of images below.
	 * NULL: there are none. */
	void (*visit_files)(struct image *image, image_visit_file *visit, void *context);
	/* See image_settle(). NULL: a flush is all. */
	int (*settle)(struct image *image);
	/* See image_bitmap_open() and image_bitmap_walk(). NULL: there are no bitmaps. */
	int (*bitmap_open)(struct image *image, const char *name, struct image_bitmap **bitmap,
			   struct error *err);
	int (*bitmap_walk)(struct image_bitmap *bitmap, uint64_t offset, uint64_t length,
			   image_bitmap_visit *visit, void *context);
	void (*bitmap_close)(struct image_bitmap *bitmap);
};

/* How an image is to be opened. Strings outlive the image. */
struct image_options {
	const struct image_node *node; /* what the user describes; NULL: the path is all */
	const char *format;            /* NULL: look into the file */
	enum image_access access;
	const char *load_snapshot; /* an internal snapshot instead of the disk; NULL: none */
	bool no_references;        /* an image that names other files is refused */
	bool backing;              /* others build upon it: nobody may write it meanwhile */
	bool direct;               /* all files of the chain are used around the page cache, unless
				    * node says otherwise of one */
	bool bitmaps_may_break;    /* write although dirty bitmaps of the image become void */
	bool dynamic;              /* it may be opened again, in another way, while it is read */
	enum discard_mode discard;
	const struct secret *key_secret;  /* opens encryption, of backing files, too; NULL: none */
	const struct object_set *objects; /* where a description's key-secret is found */
};

struct image {
	const struct image_driver *driver;
	struct hostfile *file; /* the main file; with a child, the child's */
	struct image_options options;
	struct image *child;          /* of a part of another image's disk: that one, else NULL */
	const struct image *parent;   /* the overlay whose backing file this is, or NULL */
	unsigned int depth;           /* overlays above it */
	_Atomic uint64_t size;        /* bytes that a guest sees; image_refresh() changes it */
	const struct image *replaces; /* while it is opened: the same, opened in another way */
	const struct image *previous; /* while it is opened: what stood in its place in the chain
				       * that is opened anew, perhaps another file */
	bool read_only;
	bool abandoned;     /* somebody else may write it now: closing writes nothing */
	uint32_t zero_unit; /* so many bytes at least, and aligned, are zeroed by the mapping; 0:
			     * zeroes are the host file's */
	bool encrypted;     /* it, or a file below it in the chain */
	bool probed;        /* the format is what the file looks like, nobody said so */
	void *state;        /* the driver's */
};

extern const struct image_driver image_driver_raw;
extern const struct image_driver image_driver_qcow2;
extern const struct image_driver image_driver_luks;

/* Overlays above the last image of a chain, at most. */
enum { IMAGE_DEPTH_MAX = 64 };

/*
 * Opens an image: file, locks, format. Degrades to read-only as access allows, with a notice on
 * the log. 0 or -errno with err set; image_close() releases it.
 */
int image_open(const char *path, const struct image_options *options, struct image **image,
	       struct error *err);
/* The same, read only, under an overlay that takes all writes and is gone when it is closed. */
int image_open_temporary(const char *path, const struct image_options *options,
			 struct image **image, struct error *err);
/*
 * The same image, opened anew: for writing, or only for reading. Its files are those of `old`,
 * whatever their names are now; what others wrote is seen; locks go over at once. Then `old` is
 * abandoned: it may be read as long as it is open. When it fails all is as before.
 */
int image_reopen(struct image *old, bool writable, struct image **image, struct error *err);
/* Back to `old`, which nobody has written meanwhile; image is closed. */
void image_reopen_undo(struct image *old, struct image *image);
/* Whoever reads by views of the old image's files goes on with those of the new one's. Then the old
 * one may be closed when all who entered an epoch before this have left. */
void image_hand_over(struct image *old, struct image *image);
/*
 * Opens an image for reading only, one that may be reopened, after a look whether it could be
 * written; when not, `why` says why not. As image_open().
 */
int image_open_resting(const char *path, const struct image_options *options, struct image **image,
		       struct error *why, struct error *err);
/* Is this failure of opening for writing one that a read-only open may cure? */
bool image_access_degrades(int rc);
/* Calls visit for each file of the image and of those below it. */
void image_visit_files(struct image *image, image_visit_file *visit, void *context);
/* Flushes, and brings what waits for readers to its end; -EAGAIN: once more would bring more of it.
 * Nobody writes meanwhile. */
int image_settle(struct image *image);

/*
 * The image below parent in a chain, to be read only. name is what parent says, relative to
 * parent's directory; format NULL: it does not say. Never a protocol. parent outlives it. What the
 * user described takes the place of name and format. previous: see struct image. *image is NULL
 * when there is to be none.
 */
int image_open_backing(const struct image *parent, const char *name, const char *format,
		       const struct image *previous, struct image **image, struct error *err);
/* The path that a name inside an image means, to be freed; NULL with err set when it is none. */
char *image_resolve_name(const struct image *image, const char *name, struct error *err);
void image_close(struct image *image);
/* Turns a file of the image that has just been opened to direct I/O, if that is wanted. */
int image_choose_cache(const struct image *image, struct hostfile *file,
		       const struct image_place *place, struct error *err);

/* The key that the description of the image names, else the one for all; *key is NULL when there is
 * none. 0 or -errno with err set. */
int image_key(const struct image *image, const struct secret **key, struct error *err);
/* -ENOKEY with err set: the image is encrypted, and image_key() has found none. */
int image_key_missing(const struct image *image, struct error *err);

/* The format that the first 512 bytes look like, "raw" for none. */
const char *image_probe_format(const uint8_t head[512]);

static inline int image_map(struct image *image, uint64_t offset, uint64_t length,
			    enum map_intent intent, unsigned int flags, struct extent *extent)
{
	return image->driver->map(image, offset, length, intent, flags, extent);
}

/* Moves the bytes of an extent that has a file: 0 or -errno; a file that ends too early is -ENODATA
 * (see hostfile_read). Blocks. */
int image_read_run(const struct extent *extent, void *buffer);
int image_write_run(const struct extent *extent, const void *buffer);
/* All of them without blocking, or -EAGAIN. */
int image_read_run_nowait(const struct extent *extent, void *buffer);

/* Takes note of a disk that was resized outside. Does not block. */
void image_refresh(struct image *image);

/* Blocking operations, for workers. 0 or -errno. */
int image_read(struct image *image, void *buffer, uint64_t offset, uint64_t length);
int image_write(struct image *image, const void *buffer, uint64_t offset, uint64_t length);
/*
 * Will image_write() of a range that must not be overwritten in place be done at the speed of
 * memory, reading nothing and waiting for no disk? *piece: when the range is written in parts, they
 * should end at multiples of it. As things are now: a wrong answer costs time only. Does not block.
 */
static inline bool image_write_is_quick(struct image *image, uint64_t offset, uint64_t length,
					uint32_t *piece)
{
	return image->driver->write_is_quick &&
	       image->driver->write_is_quick(image, offset, length, piece);
}
int image_zero(struct image *image, uint64_t offset, uint64_t length, unsigned int flags);
/* Nothing, where the image is to keep what it has. */
int image_discard(struct image *image, uint64_t offset, uint64_t length);
int image_flush(struct image *image);
/* Starts reading the range into memory; advice. */
int image_prefetch(struct image *image, uint64_t offset, uint64_t length);

/*
 * The bitmap of that name of the image or, where it has none, of the nearest image below. 0, or
 * -errno with err set; -ENOENT: there is none. The image outlives it.
 */
int image_bitmap_open(struct image *image, const char *name, struct image_bitmap **bitmap,
		      struct error *err);
void image_bitmap_close(struct image_bitmap *bitmap);
/* Tells the bits of a range; what the bitmap does not cover is clean. Blocking; any thread, many
 * at once. 0 or -errno. */
int image_bitmap_walk(struct image_bitmap *bitmap, uint64_t offset, uint64_t length,
		      image_bitmap_visit *visit, void *context);

#endif
