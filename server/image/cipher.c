// SPDX-License-Identifier: MIT
/*
 * Modes of AES over sectors. OpenSSL 3 needs as long to take a new initialisation vector as to
 * encrypt a sector by it, so XTS and CBC's decryption are made of AES-ECB calls over a batch of
 * sectors: all tweaks in one call, all data in another, and exclusive-or (tweaks.h) around it.
 *
 * OpenSSL's contexts serve one thread at a time. A cipher has some, made when they are first used;
 * a thread looks for a free one where it found one the last time.
 */
#include "cipher.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/size.h"
#include "tweaks.h"

enum {
	BLOCK = 16,
	BATCH = 8,  /* sectors; with their tweaks they fit the L1 cache */
	SLOTS = 64, /* more than threads that run at a time */
};

/* Blocks of a batch: one for each sector, or all of them. */
struct vectors {
	uint64_t halves[BATCH][2];
} __attribute__((aligned(TWEAKS_ALIGN)));
struct blocks {
	uint8_t bytes[BATCH * CIPHER_SECTOR];
} __attribute__((aligned(TWEAKS_ALIGN)));

/* What one thread needs at a time; NULL where the mode has no use for it. */
struct contexts {
	EVP_CIPHER_CTX *encrypt, *decrypt; /* the data */
	EVP_CIPHER_CTX *tweak;             /* XTS: the second key */
	EVP_CIPHER_CTX *essiv;             /* ESSIV: the hash of the key */
};

struct slot {
	atomic_bool taken;
	bool made;
	struct contexts contexts;
	char padding[24]; /* slots do not share cache lines */
};

struct mode;
enum numbering { NUMBERING_NONE, NUMBERING_PLAIN, NUMBERING_PLAIN64, NUMBERING_ESSIV };

struct cipher {
	const struct mode *mode;
	enum numbering numbering;
	const struct tweaks_way *way;
	struct contexts model; /* slots are copied from it */
	struct slot slots[SLOTS];
};

/* ---- Contexts ---- */

static void contexts_free(struct contexts *contexts)
{
	EVP_CIPHER_CTX_free(contexts->encrypt); /* overwrites the key */
	EVP_CIPHER_CTX_free(contexts->decrypt);
	EVP_CIPHER_CTX_free(contexts->tweak);
	EVP_CIPHER_CTX_free(contexts->essiv);
}

static bool context_copy(EVP_CIPHER_CTX **to, const EVP_CIPHER_CTX *from)
{
	if (!from || *to)
		return true;
	*to = EVP_CIPHER_CTX_new();
	return *to && EVP_CIPHER_CTX_copy(*to, from);
}

static bool slot_make(const struct cipher *cipher, struct slot *slot)
{
	struct contexts *to = &slot->contexts;
	const struct contexts *from = &cipher->model;

	slot->made = context_copy(&to->encrypt, from->encrypt) &&
		     context_copy(&to->decrypt, from->decrypt) &&
		     context_copy(&to->tweak, from->tweak) && context_copy(&to->essiv, from->essiv);
	if (!slot->made) {
		contexts_free(to);
		*to = (struct contexts){0};
	}
	return slot->made;
}

static bool slot_take(struct slot *slot)
{
	return !atomic_load_explicit(&slot->taken, memory_order_relaxed) &&
	       !atomic_exchange_explicit(&slot->taken, true, memory_order_acquire);
}

/* A slot is held for the time of a calculation only, never while something is waited for. */
static struct slot *contexts_take(struct cipher *cipher)
{
	static __thread unsigned int last;
	static atomic_uint threads;

	if (!last)
		last = atomic_fetch_add(&threads, 1) + SLOTS;
	for (;;) {
		for (unsigned int i = 0; i < SLOTS; i++, last++) {
			struct slot *slot = &cipher->slots[last % SLOTS];

			if (!slot_take(slot))
				continue;
			if (slot->made || slot_make(cipher, slot))
				return slot;
			atomic_store_explicit(&slot->taken, false, memory_order_release);
			return NULL;
		}
		sched_yield();
	}
}

static void contexts_give(struct slot *slot)
{
	atomic_store_explicit(&slot->taken, false, memory_order_release);
}

/* ---- Steps that modes are made of ---- */

static bool update(EVP_CIPHER_CTX *context, const void *in, void *out, size_t length)
{
	int made = 0;

	return EVP_CipherUpdate(context, out, &made, in, (int)length) && (size_t)made == length;
}

static uint64_t to_le64(uint64_t value)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	return __builtin_bswap64(value);
#else
	return value;
#endif
}

/* The vectors of a batch. */
static bool number(const struct cipher *cipher, const struct contexts *contexts, uint64_t sector,
		   size_t sectors, struct vectors *vectors)
{
	for (size_t i = 0; i < sectors; i++) {
		uint64_t value = sector + i;

		if (cipher->numbering == NUMBERING_PLAIN)
			value = (uint32_t)value;
		vectors->halves[i][0] = to_le64(value);
		vectors->halves[i][1] = 0;
	}
	return cipher->numbering != NUMBERING_ESSIV ||
	       update(contexts->essiv, vectors, vectors, sectors * BLOCK);
}

/* ---- XTS ---- */

static bool xts(const struct cipher *cipher, const struct contexts *contexts, EVP_CIPHER_CTX *aes,
		const uint8_t *in, uint8_t *out, size_t sectors, uint64_t sector)
{
	struct vectors vectors;
	struct blocks tweaks;

	if (!number(cipher, contexts, sector, sectors, &vectors) ||
	    !update(contexts->tweak, &vectors, &vectors, sectors * BLOCK))
		return false;
	cipher->way->begin((const uint8_t *)&vectors, sectors, tweaks.bytes, in, out);
	if (!update(aes, out, out, sectors * CIPHER_SECTOR))
		return false;
	cipher->way->apply(tweaks.bytes, sectors * CIPHER_SECTOR, out);
	return true;
}

static bool xts_encrypt(const struct cipher *cipher, const struct contexts *contexts,
			const uint8_t *in, uint8_t *out, size_t sectors, uint64_t sector)
{
	return xts(cipher, contexts, contexts->encrypt, in, out, sectors, sector);
}

static bool xts_decrypt(const struct cipher *cipher, const struct contexts *contexts,
			const uint8_t *in, uint8_t *out, size_t sectors, uint64_t sector)
{
	return xts(cipher, contexts, contexts->decrypt, in, out, sectors, sector);
}

/* ---- CBC ---- */

/* Each block waits for the one before it: this is OpenSSL's business, sector by sector. The same
 * function serves CTR, in both directions. */
static bool each_sector(const struct cipher *cipher, const struct contexts *contexts,
			const uint8_t *in, uint8_t *out, size_t sectors, uint64_t sector)
{
	struct vectors vectors;

	if (!number(cipher, contexts, sector, sectors, &vectors))
		return false;
	for (size_t i = 0; i < sectors; i++)
		if (!EVP_CipherInit_ex(contexts->encrypt, NULL, NULL, NULL,
				       (const uint8_t *)vectors.halves[i], -1) ||
		    !update(contexts->encrypt, in + i * CIPHER_SECTOR, out + i * CIPHER_SECTOR,
			    CIPHER_SECTOR))
			return false;
	return true;
}

static bool cbc_decrypt(const struct cipher *cipher, const struct contexts *contexts,
			const uint8_t *in, uint8_t *out, size_t sectors, uint64_t sector)
{
	struct vectors vectors;
	struct blocks before;

	if (!number(cipher, contexts, sector, sectors, &vectors))
		return false;
	for (size_t i = 0; i < sectors; i++) {
		size_t at = i * CIPHER_SECTOR;

		memcpy(before.bytes + at, vectors.halves[i], BLOCK);
		memcpy(before.bytes + at + BLOCK, in + at, CIPHER_SECTOR - BLOCK);
	}
	if (!update(contexts->decrypt, in, out, sectors * CIPHER_SECTOR))
		return false;
	cipher->way->apply(before.bytes, sectors * CIPHER_SECTOR, out);
	return true;
}

/* ---- ECB ---- */

static bool ecb_encrypt(const struct cipher *cipher, const struct contexts *contexts,
			const uint8_t *in, uint8_t *out, size_t sectors, uint64_t sector)
{
	(void)cipher;
	(void)sector;
	return update(contexts->encrypt, in, out, sectors * CIPHER_SECTOR);
}

static bool ecb_decrypt(const struct cipher *cipher, const struct contexts *contexts,
			const uint8_t *in, uint8_t *out, size_t sectors, uint64_t sector)
{
	(void)cipher;
	(void)sector;
	return update(contexts->decrypt, in, out, sectors * CIPHER_SECTOR);
}

/* ---- Modes ---- */

typedef bool transform(const struct cipher *cipher, const struct contexts *contexts,
		       const uint8_t *in, uint8_t *out, size_t sectors, uint64_t sector);

static const struct mode {
	const char *name;
	unsigned int keys;   /* of AES in the key */
	const char *openssl; /* the mode of the encrypting context */
	bool needs_decrypt;  /* a context for ECB's other direction */
	transform *encrypt, *decrypt;
} modes[] = {
	{"xts", 2, "ECB", true, xts_encrypt, xts_decrypt},
	{"cbc", 1, "CBC", true, each_sector, cbc_decrypt},
	{"ctr", 1, "CTR", false, each_sector, each_sector},
	{"ecb", 1, "ECB", true, ecb_encrypt, ecb_decrypt},
};

static const struct {
	const char *name;
	enum numbering numbering;
	const char *hash; /* of the key, for ESSIV */
} numberings[] = {
	{"", NUMBERING_NONE, NULL},
	{"plain", NUMBERING_PLAIN, NULL},
	{"plain64", NUMBERING_PLAIN64, NULL},
	{"essiv:sha256", NUMBERING_ESSIV, "SHA256"},
	{"essiv:md5", NUMBERING_ESSIV, "MD5"},
};

struct choice {
	const struct mode *mode;
	enum numbering numbering;
	const char *hash;
	size_t aes_key; /* bytes */
};

static bool choose_mode(const char *text, struct choice *choice)
{
	size_t length = strcspn(text, "-");
	const char *rest = text[length] ? text + length + 1 : "";

	*choice = (struct choice){0};
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (strlen(modes[i].name) == length && !strncmp(text, modes[i].name, length))
			choice->mode = &modes[i];
	if (!choice->mode)
		return false;
	for (size_t i = 0; i < sizeof(numberings) / sizeof(numberings[0]); i++)
		if (!strcmp(rest, numberings[i].name)) {
			choice->numbering = numberings[i].numbering;
			choice->hash = numberings[i].hash;
			/* Only ECB does without. */
			return *rest || !strcmp(choice->mode->name, "ecb");
		}
	return false;
}

static int choose(const char *name, const char *mode, size_t key_length, struct choice *choice,
		  struct error *err)
{
	if (strcmp(name, "aes"))
		return error_set(err, ENOTSUP,
				 "the cipher '%s' is not supported, only AES is; open such an "
				 "image by cryptsetup or qemu-nbd",
				 name);
	if (!choose_mode(mode, choice))
		return error_set(err, ENOTSUP,
				 "the cipher mode '%s-%s' is not supported; there are xts, cbc, "
				 "ctr and ecb, with plain, plain64 and essiv:sha256",
				 name, mode);
	choice->aes_key = key_length / choice->mode->keys;
	if (key_length % choice->mode->keys || choice->aes_key < 16 || choice->aes_key > 32 ||
	    choice->aes_key % 8)
		return error_set(err, ENOTSUP, "'%s-%s' does not go with a key of %zu bits", name,
				 mode, key_length * 8);
	return 0;
}

int cipher_check(const char *name, const char *mode, size_t key_length, struct error *err)
{
	struct choice choice;

	return choose(name, mode, key_length, &choice, err);
}

/* ---- Making ---- */

/* A context of AES with this key; NULL: OpenSSL could not. */
static EVP_CIPHER_CTX *context_new(const char *mode, const uint8_t *key, size_t length,
				   bool encrypt)
{
	char name[32];
	EVP_CIPHER *aes;
	EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
	bool done;

	snprintf(name, sizeof(name), "AES-%zu-%s", length * 8, mode);
	aes = EVP_CIPHER_fetch(NULL, name, NULL);
	done = context && aes && EVP_CipherInit_ex(context, aes, NULL, key, NULL, encrypt) &&
	       EVP_CIPHER_CTX_set_padding(context, 0);
	EVP_CIPHER_free(aes);
	if (!done) {
		EVP_CIPHER_CTX_free(context);
		return NULL;
	}
	return context;
}

/* ESSIV encrypts the number by a hash of the key. */
static EVP_CIPHER_CTX *essiv_new(const char *hash, const uint8_t *key, size_t length)
{
	uint8_t digest[EVP_MAX_MD_SIZE];
	EVP_CIPHER_CTX *context = NULL;
	size_t made = 0;

	if (EVP_Q_digest(NULL, hash, NULL, key, length, digest, &made))
		context = context_new("ECB", digest, made, true);
	OPENSSL_cleanse(digest, sizeof(digest));
	return context;
}

static bool model_make(struct contexts *model, const struct choice *choice, const uint8_t *key,
		       size_t key_length)
{
	size_t length = choice->aes_key;

	model->encrypt = context_new(choice->mode->openssl, key, length, true);
	if (choice->mode->needs_decrypt)
		model->decrypt = context_new("ECB", key, length, false);
	if (choice->mode->keys == 2)
		model->tweak = context_new("ECB", key + length, length, true);
	if (choice->hash)
		model->essiv = essiv_new(choice->hash, key, key_length);
	return model->encrypt && (model->decrypt || !choice->mode->needs_decrypt) &&
	       (model->tweak || choice->mode->keys == 1) && (model->essiv || !choice->hash);
}

int cipher_new(const char *name, const char *mode, const uint8_t *key, size_t key_length,
	       struct cipher **out, struct error *err)
{
	struct choice choice;
	struct cipher *cipher;
	int rc = choose(name, mode, key_length, &choice, err);

	*out = NULL;
	if (rc)
		return rc;
	cipher = calloc(1, sizeof(*cipher));
	if (!cipher)
		return error_set(err, ENOMEM, "out of memory");
	cipher->mode = choice.mode;
	cipher->numbering = choice.numbering;
	cipher->way = tweaks_way(0);
	if (!model_make(&cipher->model, &choice, key, key_length)) {
		cipher_free(cipher);
		return error_set(err, ENOTSUP, "OpenSSL does not offer '%s-%s' here", name, mode);
	}
	*out = cipher;
	return 0;
}

void cipher_free(struct cipher *cipher)
{
	if (!cipher)
		return;
	for (size_t i = 0; i < SLOTS; i++)
		contexts_free(&cipher->slots[i].contexts);
	contexts_free(&cipher->model);
	free(cipher);
}

/* ---- Using ---- */

static int run(struct cipher *cipher, transform *one_batch, const uint8_t *in, uint8_t *out,
	       size_t length, uint64_t sector)
{
	struct slot *slot = contexts_take(cipher);
	size_t left = length / CIPHER_SECTOR;
	int rc = 0;

	if (!slot)
		return -ENOMEM;
	while (left && rc == 0) {
		size_t sectors = min_of(left, (size_t)BATCH);

		rc = one_batch(cipher, &slot->contexts, in, out, sectors, sector) ? 0 : -EIO;
		in += sectors * CIPHER_SECTOR;
		out += sectors * CIPHER_SECTOR;
		sector += sectors;
		left -= sectors;
	}
	contexts_give(slot);
	return rc;
}

int cipher_encrypt(struct cipher *cipher, const uint8_t *in, uint8_t *out, size_t length,
		   uint64_t sector)
{
	return run(cipher, cipher->mode->encrypt, in, out, length, sector);
}

int cipher_decrypt(struct cipher *cipher, const uint8_t *in, uint8_t *out, size_t length,
		   uint64_t sector)
{
	return run(cipher, cipher->mode->decrypt, in, out, length, sector);
}
