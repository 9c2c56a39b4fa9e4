/* SPDX-License-Identifier: MIT */
/* Names inside images are paths and nothing else: never URLs, options or JSON. */
#ifndef OX_BASE_PATH_H
#define OX_BASE_PATH_H

/*
 * What name means in the image at base: name itself where it is absolute, else in the directory of
 * base. Nothing is looked up; ".." and links stay. A fresh string, or NULL without memory.
 */
char *ox_path_beside(const char *base, const char *name);

#endif
