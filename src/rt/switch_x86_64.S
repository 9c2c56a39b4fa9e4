/* SPDX-License-Identifier: MIT */
/* void ox_switch_to(struct ox_switch *from, const struct ox_switch *to), System V x86_64. */
#if defined(__x86_64__) && !defined(__ILP32__)
	.text
	.globl	ox_switch_to
	.hidden	ox_switch_to
	.type	ox_switch_to, @function
	.p2align 4
ox_switch_to:
	pushq	%rbp
	pushq	%rbx
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	subq	$8, %rsp
	stmxcsr	(%rsp)
	fnstcw	4(%rsp)
	movq	%rsp, (%rdi)
	movq	(%rsi), %rsp
	ldmxcsr	(%rsp)
	fldcw	4(%rsp)
	addq	$8, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbx
	popq	%rbp
	ret
	.size	ox_switch_to, . - ox_switch_to
#endif
	.section .note.GNU-stack, "", @progbits
