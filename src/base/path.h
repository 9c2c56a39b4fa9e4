/* SPDX-License-Identifier: MIT */
/* Names inside images are paths and nothing else: never URLs, options or JSON. */
#ifndef OX_BASE_PATH_H
#define OX_BASE_PATH_H

/*
 * What name means in the image at base: name itself where it is absolute, else in the directory of
 * base. Nothing is looked up; ".." and links stay. A fresh string, or NULL without memory.
 */
char *ox_path_beside(const char *base, const char *name);

/*
 * Whether path lies below the directory by the words of both alone: "." and ".." are followed in
 * them, links are not. A relative and an absolute path have nothing to do with each other; so has
 * one that begins above the working directory with all. 1, 0, or -ENOMEM.
 */
int ox_path_is_under(const char *dir, const char *path);

#endif
