/* SPDX-License-Identifier: MIT */
/* Arrays that grow. */
#ifndef OX_BASE_GROW_H
#define OX_BASE_GROW_H

#include <errno.h>
#include <stdlib.h>

/* Makes room for one item more in an array of malloc's: room, which is least at first, is doubled
 * where all of it is used. 0 or -ENOMEM; the array is then as it was. */
#define ox_grow(array, count, room, least)                                                         \
	__extension__({                                                                            \
		int grow_result_ = 0;                                                              \
                                                                                                   \
		if ((count) == (room)) {                                                           \
			__typeof__(room) grow_room_ = (room) ? 2 * (room) : (least);               \
			void *grow_more_ = reallocarray((array), grow_room_, sizeof(*(array)));    \
                                                                                                   \
			if (grow_more_) {                                                          \
				(array) = grow_more_;                                              \
				(room) = grow_room_;                                               \
			} else {                                                                   \
				grow_result_ = -ENOMEM;                                            \
			}                                                                          \
		}                                                                                  \
		grow_result_;                                                                      \
	})

#endif
