//! The first process of a container that asks for one. It knows no library, so that it runs in every image and takes
//! a few kilobytes: `build.rs` compiles it by itself, and the daemon carries it.
//!
//! `hivemind-init MODE -- PROGRAM [ARGUMENTS]`:
//! * `reap` begins the program, passes every signal on to it, takes care of processes that others have left behind, and
//!   ends as the program did: with its code, or 128 and the number of the signal.
//! * `hold` gives the program a standard input that stays open: the pipe `/dev/.hivemind-stdin`, or an empty one. Then it
//!   becomes the program.
//! * `both` is both.
//!
//! It ends with 126 if the program cannot be run, with 127 if there is none, as a shell does.
#![no_std]
#![no_main]

use core::{ffi::CStr, ptr};

/// A C string.
type Text = *const u8;

const CANNOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;
const ENOENT: i64 = -2;
const ENOTDIR: i64 = -20;
const EACCES: i64 = -13;
const EINTR: i64 = -4;
const SIGCHLD: i64 = 17;
const SIG_SETMASK: i64 = 2;
/// Bytes of the kernel's set of signals.
const SIGSET: i64 = 8;
const TIOCSPGRP: i64 = 0x5410;
const WNOHANG: i64 = 1;
const F_DUPFD: i64 = 0;
/// Where the end that keeps the input open is: out of the way of programs that number their files.
const HELD: i64 = 100;
/// What others write for the program, if it is there.
const INPUT: &CStr = c"/dev/.hivemind-stdin";
const AT_FDCWD: i64 = -100;
const O_RDWR: i64 = 2;
const LONGEST_PATH: usize = 4096;

/// Calls of the kernel, by their numbers of this architecture.
#[cfg(target_arch = "x86_64")]
mod call {
    pub const CLONE: i64 = 56;
    pub const CLOSE: i64 = 3;
    pub const DUP3: i64 = 292;
    pub const EXECVE: i64 = 59;
    pub const EXIT_GROUP: i64 = 231;
    pub const FCNTL: i64 = 72;
    pub const GETPID: i64 = 39;
    pub const IOCTL: i64 = 16;
    pub const KILL: i64 = 62;
    pub const OPENAT: i64 = 257;
    pub const PIPE2: i64 = 293;
    pub const SETPGID: i64 = 109;
    pub const SIGPROCMASK: i64 = 14;
    pub const SIGTIMEDWAIT: i64 = 128;
    pub const WAIT4: i64 = 61;
    pub const WRITE: i64 = 1;

    pub unsafe fn call(number: i64, a: i64, b: i64, c: i64, d: i64) -> i64 {
        let result;
        // SAFETY: the caller's; the kernel changes no other registers.
        unsafe {
            core::arch::asm!(
                "syscall",
                inlateout("rax") number => result,
                in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") 0_i64,
                lateout("rcx") _, lateout("r11") _,
                options(nostack),
            );
        }
        result
    }

    core::arch::global_asm!(".globl _start", "_start:", "mov rdi, rsp", "and rsp, -16", "call begin", "ud2");
}

#[cfg(target_arch = "aarch64")]
mod call {
    pub const CLONE: i64 = 220;
    pub const CLOSE: i64 = 57;
    pub const DUP3: i64 = 24;
    pub const EXECVE: i64 = 221;
    pub const EXIT_GROUP: i64 = 94;
    pub const FCNTL: i64 = 25;
    pub const GETPID: i64 = 172;
    pub const IOCTL: i64 = 29;
    pub const KILL: i64 = 129;
    pub const OPENAT: i64 = 56;
    pub const PIPE2: i64 = 59;
    pub const SETPGID: i64 = 154;
    pub const SIGPROCMASK: i64 = 135;
    pub const SIGTIMEDWAIT: i64 = 137;
    pub const WAIT4: i64 = 260;
    pub const WRITE: i64 = 64;

    pub unsafe fn call(number: i64, a: i64, b: i64, c: i64, d: i64) -> i64 {
        let result;
        // SAFETY: the caller's; the kernel changes no other registers.
        unsafe {
            core::arch::asm!(
                "svc 0",
                in("x8") number,
                inlateout("x0") a => result,
                in("x1") b, in("x2") c, in("x3") d, in("x4") 0_i64,
                options(nostack),
            );
        }
        result
    }

    core::arch::global_asm!(".globl _start", "_start:", "mov x0, sp", "and sp, x0, #-16", "bl begin", "brk #0");
}

use call::call;

/// What the kernel puts on the stack: the number of arguments, the arguments, a null, the environment, a null.
#[unsafe(no_mangle)]
unsafe extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: the kernel's layout at the start of every program; all strings live as long as the process.
    unsafe {
        let count = *stack;
        let args = stack.add(1).cast::<Text>();
        let environment = args.add(count + 1);
        if count < 4 {
            fail(c"hivemind-init: no program was named\n", CANNOT_RUN);
        }
        let mode = *(*args.add(1));
        let program = args.add(3);
        if mode == b'h' || mode == b'b' {
            hold_input();
        }
        if mode == b'h' {
            run(program, environment);
        }
        reap(program, environment)
    }
}

/// Begins the program, and ends as it does.
unsafe fn reap(program: *const Text, environment: *const Text) -> ! {
    let (all, mut before) = (u64::MAX, 0_u64);
    // SAFETY: every pointer is of a local that outlives its call, or null where the kernel takes that.
    unsafe {
        call(call::SIGPROCMASK, SIG_SETMASK, &raw const all as i64, &raw mut before as i64, SIGSET);
        let child = call(call::CLONE, SIGCHLD, 0, 0, 0);
        if child == 0 {
            // A group of its own, in front of the terminal if there is one: what is typed there is for the program.
            call(call::SETPGID, 0, 0, 0, 0);
            #[expect(clippy::cast_possible_truncation, reason = "the kernel's numbers of processes are of 32 bits")]
            let group = call(call::GETPID, 0, 0, 0, 0) as i32;
            call(call::IOCTL, 0, TIOCSPGRP, &raw const group as i64, 0);
            call(call::SIGPROCMASK, SIG_SETMASK, &raw const before as i64, 0, SIGSET);
            run(program, environment);
        }
        if child < 0 {
            fail(c"hivemind-init: cannot begin a process\n", CANNOT_RUN);
        }
        loop {
            let signal = call(call::SIGTIMEDWAIT, &raw const all as i64, 0, 0, SIGSET);
            if signal == SIGCHLD {
                take_ended(child);
            } else if signal > 0 {
                call(call::KILL, child, signal, 0, 0);
            }
        }
    }
}

/// Takes all that have ended; goes with them if the program is one of them.
unsafe fn take_ended(program: i64) {
    loop {
        let mut status = 0_i32;
        // SAFETY: the pointer is of a local.
        let ended = unsafe { call(call::WAIT4, -1, &raw mut status as i64, WNOHANG, 0) };
        if ended == EINTR {
            continue;
        }
        if ended <= 0 {
            return;
        }
        if ended == program {
            let signal = status & 0x7f;
            exit(if signal == 0 { (status >> 8) & 0xff } else { 128 + signal });
        }
    }
}

/// Gives this process a standard input that never ends: it holds the other end itself, as whoever else writes comes and goes.
unsafe fn hold_input() {
    let mut ends = [0_i32; 2];
    // SAFETY: the pointers are of a string with its end and of a local; the numbers are of files of our own.
    unsafe {
        let input = call(call::OPENAT, AT_FDCWD, INPUT.as_ptr() as i64, O_RDWR, 0);
        if input > 0 {
            call(call::DUP3, input, 0, 0, 0);
            call(call::CLOSE, input, 0, 0, 0);
        }
        if input >= 0 {
            return;
        }
        if call(call::PIPE2, &raw mut ends as i64, 0, 0, 0) < 0 {
            return;
        }
        call(call::DUP3, ends[0].into(), 0, 0, 0);
        call(call::FCNTL, ends[1].into(), F_DUPFD, HELD, 0);
        for end in ends {
            if end > 0 {
                call(call::CLOSE, end.into(), 0, 0, 0);
            }
        }
    }
}

/// Becomes the program: that of its path, or the first of its name in `PATH`.
unsafe fn run(program: *const Text, environment: *const Text) -> ! {
    static mut PLACE: [u8; LONGEST_PATH] = [0; LONGEST_PATH];
    let mut last = ENOENT;
    // SAFETY: all pointers are of strings with their end, or of `PLACE`, which one thread alone uses and has room.
    unsafe {
        let name = *program;
        if find(name, b'/').is_some() {
            last = call(call::EXECVE, name as i64, program as i64, environment as i64, 0);
        } else if *name != 0 {
            let place = (&raw mut PLACE).cast::<u8>();
            let mut folder = value(environment, c"PATH=");
            while !folder.is_null() {
                let end = find(folder, b':').unwrap_or_else(|| length(folder));
                if end + 1 + length(name) < LONGEST_PATH {
                    copy(place, folder, end);
                    *place.add(end) = b'/';
                    copy(place.add(end + 1), name, length(name) + 1);
                    let why = call(call::EXECVE, place as i64, program as i64, environment as i64, 0);
                    // What is there and cannot be run says more than that it is not elsewhere.
                    if why != ENOENT && why != ENOTDIR {
                        last = why;
                    }
                }
                folder = if *folder.add(end) == b':' { folder.add(end + 1) } else { ptr::null() };
            }
        }
        say(c"hivemind-init: ".as_ptr().cast());
        say(name);
        match last {
            ENOENT | ENOTDIR => {
                fail(c": no such file, in no folder of PATH, or its interpreter is not there\n", NOT_FOUND)
            }
            EACCES => fail(c": permission denied\n", CANNOT_RUN),
            _ => fail(c": cannot be run\n", CANNOT_RUN),
        }
    }
}

/// The value of the variable `name`, which ends with '='; null if there is none.
unsafe fn value(mut environment: *const Text, name: &CStr) -> Text {
    // SAFETY: a list of strings with its end.
    unsafe {
        while !(*environment).is_null() {
            let pair = *environment;
            let same = name.to_bytes().iter().enumerate().all(|(at, letter)| *pair.add(at) == *letter);
            if same {
                return pair.add(name.count_bytes());
            }
            environment = environment.add(1);
        }
    }
    ptr::null()
}

/// Where the first `letter` of a string is.
unsafe fn find(text: Text, letter: u8) -> Option<usize> {
    // SAFETY: a string with its end.
    (0..unsafe { length(text) }).find(|at| unsafe { *text.add(*at) } == letter)
}

unsafe fn length(text: Text) -> usize {
    let mut length = 0;
    // SAFETY: a string with its end. Volatile, or the compiler would make it a call of a library's function.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

unsafe fn copy(to: *mut u8, from: Text, bytes: usize) {
    for at in 0..bytes {
        // SAFETY: the caller has room for so many.
        unsafe { to.add(at).write_volatile(*from.add(at)) };
    }
}

unsafe fn say(text: Text) {
    // SAFETY: a string with its end.
    unsafe { call(call::WRITE, 2, text as i64, length(text) as i64, 0) };
}

unsafe fn fail(why: &CStr, code: i32) -> ! {
    // SAFETY: a string with its end.
    unsafe { say(why.as_ptr().cast()) };
    exit(code)
}

fn exit(code: i32) -> ! {
    loop {
        // SAFETY: the process ends.
        unsafe { call(call::EXIT_GROUP, code.into(), 0, 0, 0) };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(CANNOT_RUN)
}
